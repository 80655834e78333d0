"""Images with captions: a tree of image files, or the hub's Parquet files."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from diffprune.data.image_folder import tree
from diffprune.data.imagenet import tables
from diffprune.data.loading.held import gather
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.transforms import ShorterSide
from diffprune.data.sources import Source
from diffprune.data.sources.folder import FolderSource
from diffprune.data.sources.names import unpacked
from diffprune.data.sources.table import TableSource
from diffprune.runtime.errors import UserError

LISTING = "metadata.jsonl"


def load(path: str, resolution: int, channels: int, flip: bool, caption: str = "text", **options: Any) -> ImageSet:
    """The images, shorter side resized to `resolution`, then centre-cropped; image i has label i and the i-th of `captions`.

    `path` holds Parquet files with a column `caption`, or image files, whose captions stand in the file metadata.jsonl, one
    line {"file_name": …, `caption`: …} for each, or in a text file of the same name beside each. Raises UserError for an
    image without a caption.
    """
    images, texts = captioned(Path(path).expanduser(), caption)
    return gather(images, ShorterSide(resolution, channels), flip, torch.arange(len(images)), captions=texts, **options)


def captioned(path: Path, caption: str) -> tuple[Source, list[str]]:
    """The images at `path`, and the caption of each."""
    if files := [path] if path.suffix == ".parquet" else tables(path):
        table = TableSource.of(files)
        return table, table.texts(caption)
    images = tree(str(path))
    if not isinstance(images, FolderSource):
        raise UserError(f"dataset.path={path} is an archive: unpack it, captions are read from a folder")
    names = list(map(os.fsdecode, unpacked(images.names)))
    return images, listed(path / LISTING, names, caption) if (path / LISTING).exists() else beside(path, names)


def listed(file: Path, names: list[str], caption: str) -> list[str]:
    """The captions that the lines of a metadata `file` give for the images `names`."""
    try:
        entries = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        captions = {entry["file_name"]: str(entry[caption]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{file} cannot be used ({error!r}): give lines like {{"file_name": "0001.png", "{caption}": "a red '
                        'bird"}, or the name of the field with dataset.caption=…') from error
    if missing := [name for name in names if name not in captions]:
        raise UserError(f"{file} has no line for {missing[0]} ({len(missing)} of {len(names)} images lack one)")
    return [captions[name] for name in names]


def beside(path: Path, names: list[str]) -> list[str]:
    """The captions in the text files beside the images `names` below `path`."""
    texts = []
    for name in names:
        file = (path / name).with_suffix(".txt")
        try:
            texts.append(file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} with the caption of {name} cannot be read: give one for each image, or a file "
                            f"{path / LISTING}") from error
    return texts
