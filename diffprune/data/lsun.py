"""One LSUN category: the official database, or its images as files."""

from pathlib import Path
from typing import Any

from diffprune.data.image_folder import tree
from diffprune.data.loading.held import gather
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.transforms import ShorterSide
from diffprune.data.sources import Source
from diffprune.data.sources.database import DatabaseSource
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_file

CATEGORIES = {"lsun_church": "church_outdoor", "lsun_bedroom": "bedroom"}


def load(path: str, name: str, resolution: int, flip: bool, channels: int = 3, **options: Any) -> ImageSet:
    """The training images of the category of `name`, shorter side resized to `resolution`, then centre-cropped.

    `path` is `<category>_train_lmdb`, the folder that holds it, or a folder or zip archive of images.
    """
    return gather(source(Path(path).expanduser(), CATEGORIES[name]), ShorterSide(resolution, channels), flip, **options)


def source(path: Path, category: str) -> Source:
    """Where the images are, most official first."""
    for folder in (path, path / f"{category}_train_lmdb"):
        if is_file(folder / "data.mdb"):
            if folder.name.endswith("_lmdb") and folder.name != f"{category}_train_lmdb":
                raise UserError(f"dataset.path={folder} is not LSUN's {category}_train_lmdb: give that, or another dataset=")
            return DatabaseSource.of(folder)
    if path.name == f"{category}_train_lmdb.zip":
        raise UserError(f"dataset.path={path} is a packed database, which cannot be read in place: unpack it")
    return tree(str(path))
