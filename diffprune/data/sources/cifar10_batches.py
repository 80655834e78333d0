"""CIFAR-10 as its authors publish it: batches for Python or in binary, in a folder or packed.

The batches for Python are pickles. They are read as a list of opcodes, none of which is executed.
"""

import pickletools
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_file, is_folder

PIXELS = 3 * 32 * 32
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
BATCHES = {"train": [[f"data_batch_{number}{suffix}" for number in range(1, 6)] for suffix in ("", ".bin")],
           "test": [["test_batch"], ["test_batch.bin"]]}        # of each split, for Python and in binary
IMAGES = 10_000         # in each batch
ARRAYS = {"numpy ndarray", "numpy dtype", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct",
          "_codecs encode"}     # the names that a pickled array imports


def find(path: Path) -> Path | None:
    """The folder or archive of batches at `path` or in it, if there is one."""
    for place in (path, *(path / name for name in FOLDERS + ARCHIVES)):
        if place.name.endswith((".tar.gz", ".tgz")) and is_file(place):
            return place
        if any(is_file(place / name) for formats in BATCHES.values() for names in formats for name in names):
            return place
    return None


def read(place: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [N, 3, 32, 32] and classes int64 [N] of `split`. UserError for a batch that is missing, a copy of another
    one, or none of 10 000 images."""
    contents = dict(stored(place, {name for names in BATCHES[split] for name in names}))
    names = max(BATCHES[split], key=lambda names: len(contents.keys() & names))
    if missing := [name for name in names if name not in contents]:
        raise UserError(f"{place} lacks {', '.join(missing)}: copy CIFAR-10 again")
    pixels, labels = [], []
    for name in names:
        images, classes = (binary if name.endswith(".bin") else opcodes)(contents[name], f"{place}/{name}")
        if len(images) != IMAGES:
            raise UserError(f"{place}/{name} holds {len(images)} images, a batch of CIFAR-10 has {IMAGES}: copy it again")
        if any(np.array_equal(classes, others) for others in labels):
            raise UserError(f"{place}/{name} is a copy of another batch: copy CIFAR-10 again")
        pixels.append(images)
        labels.append(classes)
    return torch.from_numpy(np.concatenate(pixels).reshape(-1, 3, 32, 32)), torch.from_numpy(np.concatenate(labels))


def stored(place: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of those of the files `names` that are in the folder or archive `place`."""
    try:
        if is_folder(place):
            yield from ((name, (place / name).read_bytes()) for name in names if is_file(place / name))
            return
        with tarfile.open(place) as archive:
            for member in archive:
                content = archive.extractfile(member) if (name := Path(member.name).name) in names else None
                if content is not None:     # None for what is no file
                    yield name, content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{place} cannot be read ({getattr(error, 'strerror', None) or error}): mend or copy it "
                        "again") from error


def binary(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of one byte of class and 3072 of pixels."""
    if not data or len(data) % (PIXELS + 1):
        raise UserError(f"{name} is no whole batch of CIFAR-10, it has {len(data)} bytes: copy it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, PIXELS + 1)
    return records[:, 1:], records[:, 0].astype(np.int64)


def opcodes(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and classes out of a pickle: the integers after the string `labels`, and the one string of pixels.

    Nothing is unpickled. UserError for a pickle that would import more than an array needs, or holds something else.
    """
    labels, pixels, key = [], b"", ""
    try:
        for opcode, value, _ in pickletools.genops(data):
            imports = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") or opcode.name.startswith("EXT")
            if imports and value not in ARRAYS:
                raise UserError(f"{name} would import {value or 'something'}, which no batch of CIFAR-10 does: "
                                "do not trust it, get CIFAR-10 again")
            if isinstance(value, str | bytes):
                key = value if len(value) < PIXELS else ""
                pixels = value if len(value) >= PIXELS else pixels
            elif opcode.name.startswith("BININT") and key in ("labels", b"labels"):
                labels.append(value)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is no batch of CIFAR-10: copy it again") from error
    pixels = pixels.encode("latin-1", "replace") if isinstance(pixels, str) else pixels
    if not labels or len(pixels) != PIXELS * len(labels):
        raise UserError(f"{name} is no batch of CIFAR-10, it has {len(labels)} classes and {len(pixels)} bytes of pixels: "
                        "copy it again")
    return np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.array(labels, np.int64)
