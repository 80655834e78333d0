"""ImageNet: folders of classes, the hub's Parquet files, or a flat folder with a file of classes."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from diffprune.data.image_folder import tree
from diffprune.data.loading.held import gather
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.transforms import ShorterSide
from diffprune.data.sources import Source
from diffprune.data.sources.devkit import classes_of_kit
from diffprune.data.sources.names import classes, rows, unpacked
from diffprune.data.sources.table import TableSource, complete
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_folder

TRAINING = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "train")    # below the usual copies' top


def load(path: str, resolution: int, flip: bool, labels: str | None = None, channels: int = 3,
         **options: Any) -> ImageSet:
    """The images with their classes, shorter side resized to `resolution`, then centre-cropped.

    `path` holds one folder per class (or `train` does), Parquet files, or all images side by side; `labels` is then
    the text file of their classes, as `assigned` reads it. Sorted synsets are the classes 0, 1, …; folders that are numbers
    are the classes of these numbers.
    """
    images, of_images, class_count = source(Path(path).expanduser())
    if labels is not None:
        of_images, class_count = assigned(images, Path(labels).expanduser())
    return gather(images, ShorterSide(resolution, channels), flip, of_images, class_count, **options)


def source(path: Path) -> tuple[Source, torch.Tensor | None, int | None]:
    """The images, and their classes where folders or a column give them; the number of classes where folders name them."""
    files = [path] if path.suffix == ".parquet" else tables(path)
    if files:
        table = TableSource.of(files)
        return table, table.labels(), None
    below = next((path / name for name in TRAINING if is_folder(path / name)), path)
    images = tree(str(below))
    return images, *classes(images.names)


def tables(path: Path) -> list[Path]:
    """The Parquet files in `path` or its folder `data`, by name: those for training, else for validation, else all."""
    files = [file for folder in (path, path / "data") if is_folder(folder) for file in sorted(folder.glob("*.parquet"))]
    splits = ([file for file in files if file.name.startswith(split)] for split in ("train", "val", ""))
    return complete(next(filter(None, splits), []))


def assigned(images: Source, file: Path) -> tuple[torch.Tensor, int | None]:
    """The class of every image, int64 [N], from lines that begin with a file name and a class.

    `ILSVRC2012_val_00000001 65`: suffixes are ignored, commas separate too. A class is its number from 0, or its synset
    (`n03995372`): all synsets in the file, sorted, are then the classes 0, 1, …, and their number is returned too. The
    development kit's bare list of numbers is taken together with its meta.mat.
    """
    listing = rows(file, f"dataset.labels={file}")
    if not hasattr(images, "names"):
        raise UserError(f"dataset.labels={file} has no use with Parquet files, which have a column for it: leave it out")
    if listing and all(len(row) == 1 and row[0].isdigit() for row in listing):
        return classes_of_kit(images.names, [int(row[0]) for row in listing], file)
    listed = {os.path.splitext(row[0])[0]: row[1] for row in listing
              if len(row) > 1 and re.fullmatch(r"\d+|n\d{8}", row[1])}
    numbers = all(name.isdigit() for name in listed.values())
    places = {name: int(name) if numbers else place for place, name in enumerate(sorted(set(listed.values())))}
    labels = [places.get(listed.get(os.path.splitext(os.path.basename(os.fsdecode(name)))[0], ""))
              for name in unpacked(images.names)]
    if None in labels:
        raise UserError(f"dataset.labels={file} names no class for {images.name(labels.index(None))}: "
                        "give lines like ILSVRC2012_val_00000001.JPEG 65")
    return torch.tensor(labels), None if numbers else len(places)
