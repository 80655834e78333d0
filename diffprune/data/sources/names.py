"""Which files are images, and many names in little memory."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from os.path import splitext
from pathlib import Path

import pyarrow as pa
import torch

from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
HIDDEN = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")      # how systems name what people do not see
SPLITS = {b"train", b"training", b"val", b"valid", b"validation", b"test"}
BLOCK = 65_536


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(SUFFIXES)


def log_passed_over(place: str, names: Iterable[str]) -> None:
    """Logs how many files of which type are no images, by the `names` of those in `place`."""
    kinds = Counter(splitext(name)[1].lower() or "without a suffix" for name in names)
    if kinds:
        log.info("passed over in %s: %s", place, ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))


def rows(file: Path, title: str) -> list[list[str]]:
    """The words of each line of a text `file`, which spaces or commas separate; UserError, with its `title`, otherwise."""
    try:
        return [re.split(r"[,\s]+", line.strip()) for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{title} cannot be read ({getattr(error, 'strerror', error)}): give a text file with a name and a "
                        "number per line") from error


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


def classes(names: pa.Array) -> tuple[torch.Tensor | None, int | None]:
    """Each name's class, int64 [N]: its first folder's number where all of these are numbers, else the folder's place among
    all of them, for names in path order; and in the latter case how many folders there are.

    The classes are None where a name has no folder, or where there is no name. UserError where the folders are the splits of
    a data set.
    """
    places: dict[bytes, int] = {}
    labels = torch.empty(len(names), dtype=torch.int64)
    array = labels.numpy()
    for index, name in enumerate(unpacked(names)):
        top, slash, _ = name.partition(b"/")
        if not slash:
            return None, None
        array[index] = places.setdefault(top, len(places))
    if len(places) > 1 and {top.lower() for top in places} <= SPLITS:
        splits = b", ".join(places).decode()
        raise UserError(f"the folders of the data set are its splits {splits}: give one of them as dataset.path")
    if places and all(top.isdigit() and len(top) < 10 for top in places):
        return torch.tensor([int(top) for top in places])[labels], None
    return (labels, len(places)) if places else (None, None)
