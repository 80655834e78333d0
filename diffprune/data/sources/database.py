"""Encoded images in an LMDB database, LSUN's own format."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

from diffprune.data.sources import Source
from diffprune.data.sources.names import packed, unpacked
from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class DatabaseSource(Source):
    """The values of the database folder `path`, by their sorted `keys`; `sizes` int64 [N] in bytes."""
    path: Path
    keys: pa.Array
    sizes: np.ndarray

    @classmethod
    def of(cls, path: Path) -> "DatabaseSource":
        """Every entry; raises UserError for one that is not readable, cut short or empty."""
        sizes: list[int] = []

        def keys(transaction: lmdb.Transaction) -> Iterator[bytes]:
            for key, value in transaction.cursor():     # in the order of the keys' bytes; no value is read for its size
                sizes.append(len(value))
                yield bytes(key)

        try:
            check_length(path)
            with environment(str(path)).begin(buffers=True) as transaction:
                names = packed(keys(transaction))
        except (lmdb.Error, OSError) as error:
            raise UserError(f"{path} cannot be read as an LMDB database ({error}): mend or copy it again") from error
        if not len(names):
            raise UserError(f"{path} holds no image: copy it again")
        return cls(path, names, np.array(sizes, np.int64))

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return f"{self.path}, key {self.keys[index].as_py().decode(errors='replace')}"

    def read(self, index: int) -> bytes:
        try:
            with environment(str(self.path)).begin() as transaction:
                value = transaction.get(self.keys[index].as_py())
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        if value is None:
            raise OSError("the database has changed")
        return bytes(value)

    def identity(self) -> Iterator[bytes]:
        yield b"\0".join(unpacked(self.keys))
        yield self.sizes.tobytes()


@functools.cache
def environment(path: str) -> lmdb.Environment:
    """The open database, of which LMDB allows one per process; forked ones read the same map, for which no lock is held."""
    return lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False, create=False)


def check_length(path: Path) -> None:
    """Raises OSError for a file that ends before its last page: reading there would kill the process."""
    database = environment(str(path))
    size = (path / "data.mdb").stat().st_size
    needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < needed:
        raise OSError(f"data.mdb is cut short, {size} of {needed} bytes")
