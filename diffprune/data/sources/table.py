"""Encoded images in Parquet files, the layout of the Hugging Face hub."""

import logging
import re
import threading
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import parquet

from diffprune.data.sources import Source
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "img")            # as people name them: encoded bytes, or a struct with `bytes` and `path`
LABEL_COLUMNS = ("label", "labels")
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)")     # train-00001-of-00005


@dataclass
class TableSource(Source):
    """The image column of Parquet `files`; `groups` are (file, row group) and `starts` the first row of each."""
    files: list[Path]
    groups: list[tuple[int, int]]
    starts: list[int]
    rows: int
    _recent: threading.local = field(default_factory=threading.local, repr=False)

    @classmethod
    def of(cls, files: list[Path]) -> "TableSource":
        groups, starts, rows = [], [], 0
        for place, path in enumerate(files):
            with reading(path), parquet.ParquetFile(path) as file:
                columns(path, file.schema_arrow)
                for group in range(file.num_row_groups):
                    groups.append((place, group))
                    starts.append(rows)
                    rows += file.metadata.row_group(group).num_rows
        if not rows:
            raise UserError(f"{files[0]} holds no image: copy it again")
        return cls(files, groups, starts, rows)

    def labels(self) -> torch.Tensor | None:
        """int64 [N]; None where a file has no column of classes, or all are -1, as the hub marks unpublished ones."""
        columns_read = []
        for path in self.files:
            with reading(path):
                _, label = columns(path, parquet.read_schema(path))
                if label is None:
                    return None
                column = parquet.read_table(path, columns=[label])[label]
                if not pa.types.is_integer(column.type) or column.null_count:
                    raise UserError(f"{path} has classes that are no numbers in its column {label}: copy it again")
                columns_read.append(torch.tensor(column.to_numpy(), dtype=torch.int64))
        labels = torch.cat(columns_read)
        return None if bool((labels == -1).all()) else labels

    def texts(self, column: str) -> list[str]:
        """The strings [N] of a `column`; UserError where a file lacks it, or an entry of it."""
        texts: list[str] = []
        for path in self.files:
            with reading(path):
                names = parquet.read_schema(path).names
                if column not in names:
                    raise UserError(f"{path} has no column {column}: give dataset.caption=<one of {', '.join(names)}>")
                texts += parquet.read_table(path, columns=[column])[column].to_pylist()
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"the column {column} of {self.files[0]} lacks texts: give a complete copy")
        return texts

    def __len__(self) -> int:
        return self.rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_recent"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_recent": threading.local()}

    def name(self, index: int) -> str:
        place = bisect_right(self.starts, index) - 1
        file = self.groups[place][0]
        return f"{self.files[file]}, row {index - self.starts[self.groups.index((file, 0))]}"

    def read(self, index: int) -> bytes:
        """Cheap for neighbours only: the last row group is kept, per thread."""
        place = bisect_right(self.starts, index) - 1
        if getattr(self._recent, "place", None) != place:
            self._recent.values, self._recent.place = self.row_group(place), place
        return image_bytes(self._recent.values[index - self.starts[place]].as_py())

    def row_group(self, place: int) -> pa.Array:
        """The encoded images of the row group at `place` of `groups`."""
        file, group = self.groups[place]
        with reading(self.files[file]), parquet.ParquetFile(self.files[file]) as table:
            image, _ = columns(self.files[file], table.schema_arrow)
            return encoded(table.read_row_group(group, columns=[image], use_threads=False)[image])

    def identity(self) -> Iterator[bytes]:
        for path in self.files:
            yield f"{path.name}\0{path.stat().st_size}\0".encode()

    def at_random(self) -> "MappedSource":
        from datasets import Dataset, config
        from datasets.exceptions import DatasetsError
        total = sum(path.stat().st_size for path in self.files)
        log.info("Parquet cannot be read image by image: an Arrow copy of %.1f GB goes to %s (HF_DATASETS_CACHE=)",
                 total / 1e9, config.HF_DATASETS_CACHE)
        image, _ = columns(self.files[0], parquet.read_schema(self.files[0]))
        try:
            rows = Dataset.from_parquet([str(path) for path in self.files], columns=[image])
        except (DatasetsError, OSError, pa.ArrowException) as error:
            raise UserError(f"{self.files[0].parent} cannot be copied to {config.HF_DATASETS_CACHE} "
                            f"({type(error).__name__}: {error.__cause__ or error}): make room or copy it again") from error
        return MappedSource(rows.with_format("arrow"), image, str(self.files[0].parent), self)


@dataclass
class MappedSource(Source):
    """The `column` of a data set of the `datasets` library, whose files are mapped into memory: any row is read quickly.
    `title` names it, or the `original` that it is a copy of."""
    rows: Any
    column: str
    title: str
    original: TableSource | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.original.name(index) if self.original else f"{self.title}, row {index}"

    def read(self, index: int) -> bytes:
        return image_bytes(encoded(self.rows[index][self.column])[0].as_py())

    def identity(self) -> Iterator[bytes]:
        yield from self.original.identity() if self.original else [f"{self.title}\0{len(self)}".encode()]


def complete(files: list[Path]) -> list[Path]:
    """`files`, all of one split in a folder. UserError where they have numbers (`train-00001-of-00005.parquet`) of which one
    is missing or there twice, or where one is of another split."""
    names = [file.stem for file in files]
    shard = next(filter(None, map(SHARD.fullmatch, names)), None)
    expected = [f"{shard[1]}-{number:0{len(shard[2])}}-of-{shard[3]}" for number in range(int(shard[3]))] if shard else names
    for name in expected:
        if name not in names:
            raise UserError(f"{files[0].parent} lacks {name}.parquet: copy it, or give a single file as dataset.path")
    for file in files:
        if file.stem not in expected or names.count(file.stem) > 1:
            raise UserError(f"{file} is not one of the {len(expected)} files from {expected[0]} on, or is there twice: move "
                            "it away, or give a single file or a folder with one split as dataset.path")
    return files


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turns an error of Arrow into a UserError that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
        raise UserError(f"{path} cannot be read as images in Parquet ({reason}): mend or copy it again") from error


def image_bytes(data: bytes | None) -> bytes:
    """`data` itself; raises OSError for a row without an image."""
    if data is None:
        raise OSError("there is no image")
    return data


def columns(path: Path | str, schema: pa.Schema) -> tuple[str, str | None]:
    """Names of the image column and, if there is one, of the column of classes; UserError without encoded images."""
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image is None:
        raise UserError(f"{path} has no column {' or '.join(IMAGE_COLUMNS)}: give Parquet files of images")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"{path} has {kind} in its column {image}, images are encoded files (PNG, JPEG): give another copy")
    return image, next((name for name in LABEL_COLUMNS if name in schema.names), None)


def encoded(column: pa.ChunkedArray) -> pa.Array:
    """The images' bytes, whether alone or in a struct with their path."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.field("bytes") if pa.types.is_struct(array.type) else array
