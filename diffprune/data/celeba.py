"""CelebA's training images: faces cut out of the aligned photographs."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diffprune.data.image_folder import tree
from diffprune.data.loading.held import gather
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.transforms import Face
from diffprune.data.sources.archive import ZipSource
from diffprune.data.sources.folder import FolderSource
from diffprune.data.sources.names import rows, unpacked
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_file

PHOTOGRAPHS = "img_align_celeba"
PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
TRAINING = "0"              # in the partition file; 1 is validation, 2 test


def load(path: str, resolution: int, flip: bool, channels: int = 3, **options: Any) -> ImageSet:
    """The photographs of partition 0, in the order of their names, as [N, channels, resolution, resolution].

    `path` is the folder img_align_celeba, its zip archive, or a folder that holds one of them; the partition file is next to
    it or in a folder above. Raises UserError for a missing file, and for one that is not an aligned photograph.
    """
    place = photographs(Path(path).expanduser())
    return gather(chosen(place, training(partition(place))), Face(resolution, channels), flip, **options)


def photographs(path: Path) -> Path:
    """The folder or the archive of the aligned photographs, at `path` or below."""
    inner = path / PHOTOGRAPHS
    for place in (inner / PHOTOGRAPHS, inner, path / f"{PHOTOGRAPHS}.zip", path):
        if exists(place):
            return place
    raise UserError(f"dataset.path={path} does not exist: give the folder {PHOTOGRAPHS}, or {PHOTOGRAPHS}.zip")


def partition(place: Path) -> Path:
    """The file that lists the training photographs, searched where the usual copies of the data set have it."""
    folders = [folder / below for folder in (place, *place.absolute().parents[:3]) for below in ("", "Eval")]
    for folder, name in product(folders, PARTITION):
        if is_file(folder / name):
            return folder / name
    raise UserError(f"{place} has no {PARTITION[0]} beside or above it: copy it there from CelebA's folder Eval, "
                    "it says which photographs are for training")


def training(file: Path) -> list[str]:
    """Sorted names of the photographs in partition 0; lines are `000001.jpg 0`, or with a comma and a heading."""
    wanted = sorted(row[0] for row in rows(file, str(file)) if len(row) == 2 and row[1] == TRAINING)
    if not wanted:
        raise UserError(f"{file} names no training image (lines like 000001.jpg 0): copy it again")
    return wanted


def chosen(place: Path, wanted: list[str]) -> FolderSource | ZipSource:
    """The images `wanted` in the folder or archive `place`, at any depth; UserError where one is missing."""
    source = tree(str(place))
    places = {os.path.basename(name): index for index, name in enumerate(unpacked(source.names))}
    missing = [name for name in wanted if os.fsencode(name) not in places]
    if missing:
        raise UserError(f"{place} lacks {len(missing)} of the {len(wanted)} training images, the first is {missing[0]}: "
                        f"give the complete {PHOTOGRAPHS}")
    return source.chosen(np.array([places[os.fsencode(name)] for name in wanted]))
