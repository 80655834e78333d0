"""Many names in little memory."""

from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import torch

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
BLOCK = 65_536


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; hidden files (macOS leaves `._photo.jpg`) are not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def packed(names: Iterable[bytes]) -> pa.Array:
    """`names` in one Arrow array: a few bytes more than their lengths, where a list takes some eighty each."""
    names, blocks = iter(names), []
    while block := list(islice(names, BLOCK)):
        blocks.append(pa.array(block, pa.large_binary()))
    return pa.concat_arrays(blocks) if blocks else pa.array([], pa.large_binary())


def unpacked(names: pa.Array) -> Iterator[bytes]:
    """The names one by one, a block at a time in memory."""
    for start in range(0, len(names), BLOCK):
        yield from names.slice(start, BLOCK).to_pylist()


def classes(names: pa.Array) -> torch.Tensor | None:
    """int64 [N]: the place of each name's first folder among all of them, for names in path order.

    None where a name has no folder, or where there is no name.
    """
    places: dict[bytes, int] = {}
    labels = torch.empty(len(names), dtype=torch.int64)
    array = labels.numpy()
    for index, name in enumerate(unpacked(names)):
        top, slash, _ = name.partition(b"/")
        if not slash:
            return None
        array[index] = places.setdefault(top, len(places))
    return labels if places else None
