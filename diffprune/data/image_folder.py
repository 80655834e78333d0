"""Any tree of images on the disk, or in a zip archive."""

from pathlib import Path
from typing import Any

from diffprune.data.loading.held import gather
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.transforms import Fit
from diffprune.data.sources.archive import ZipSource
from diffprune.data.sources.folder import FolderSource
from diffprune.data.sources.names import classes
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_file, is_folder


def load(path: str, resolution: int, channels: int, flip: bool, **options: Any) -> ImageSet:
    """Every image below `path`, in path order, as [N, channels, resolution, resolution].

    Where all of them lie in sub-folders, these are their classes: by number where every sub-folder's name is one, else the
    sorted names are the classes 0, 1, …. Raises UserError for a missing or empty folder and for a file that is no readable
    image.
    """
    source = tree(path)
    labels, class_count = classes(source.names)
    return gather(source, Fit(resolution, channels), flip, labels, class_count, **options)


def tree(path: str) -> FolderSource | ZipSource:
    """The images in the folder or zip archive `path`; UserError where there is none."""
    place = Path(path).expanduser()
    if place.suffix.lower() == ".zip" and is_file(place):
        return ZipSource.of(place)
    if not is_folder(place):
        fault = "is a file" if exists(place) else "does not exist"
        raise UserError(f"dataset.path={path} {fault}: give a folder with images, or a zip archive of them")
    return FolderSource.of(place)
