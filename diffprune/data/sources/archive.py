"""Image files in a zip archive, read without unpacking it."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffprune.data.sources import Source
from diffprune.data.sources.names import HIDDEN, SUFFIXES, is_image, log_passed_over, packed, unpacked
from diffprune.runtime.errors import UserError


@dataclass
class ZipSource(Source):
    """The members `names` of the archive `path`; `sizes` and `checksums` int64 [N] are those in its directory."""
    path: Path
    names: pa.Array
    sizes: np.ndarray
    checksums: np.ndarray
    _open: tuple[int, zipfile.ZipFile] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, path: Path) -> "ZipSource":
        """Every image in the archive, in path order; raises UserError where there is none."""
        with opened(path) as archive:
            shown = [info for info in archive.infolist()
                     if not info.is_dir() and not any(part.startswith(HIDDEN) for part in info.filename.split("/"))]
        members = sorted((tuple(info.filename.split("/")), info.file_size, info.CRC) for info in shown
                         if is_image(info.filename))
        log_passed_over(str(path), (info.filename for info in shown if not is_image(info.filename)))
        if not members:
            raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)})")
        names = packed("/".join(path_parts).encode() for path_parts, _, _ in members)
        return cls(path, names, np.array([size for _, size, _ in members], np.int64),
                   np.array([checksum for _, _, checksum in members], np.int64))

    def chosen(self, places: np.ndarray) -> "ZipSource":
        """Only the members at `places`."""
        return ZipSource(self.path, self.names.take(pa.array(places)), self.sizes[places], self.checksums[places])

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def name(self, index: int) -> str:
        return f"{self.path}/{self.names[index].as_py().decode()}"

    def read(self, index: int) -> bytes:
        try:
            return self.archive().read(self.names[index].as_py().decode())
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(str(error)) from error

    def archive(self) -> zipfile.ZipFile:
        """The open archive: each process opens it for itself, because a file's position is shared after a fork."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), opened(self.path)
        return self._open[1]

    def identity(self) -> Iterator[bytes]:
        yield b"\0".join(unpacked(self.names))
        yield self.sizes.tobytes()
        yield self.checksums.tobytes()


def opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} cannot be read as a zip archive ({getattr(error, 'strerror', None) or error}): mend or "
                        "copy it again") from error
