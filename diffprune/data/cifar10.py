"""CIFAR-10 from Parquet files, from its authors' batches, or from the Hugging Face hub."""

import logging
from pathlib import Path
from typing import Any

import torch
from pyarrow import parquet

from diffprune.data.loading.held import HeldImages
from diffprune.data.loading.images import Images, ImageSet
from diffprune.data.loading.readable import Readable
from diffprune.data.loading.transforms import Exact
from diffprune.data.sources import cifar10_batches
from diffprune.data.sources.table import MappedSource, TableSource, columns, complete
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_file

log = logging.getLogger(__name__)

HUB = "uoft-cs/cifar10"


def load(path: str | None, flip: bool, split: str = "train", resolution: int = 32, channels: int = 3,
         workers: int = 0, on_error: str = "stop", **_: Any) -> ImageSet:
    """The images of `split` (train: 50 000, test: 10 000) as [N, 3, 32, 32] with their classes, always in memory.

    `path` is a folder of Parquet files, the folder or archive of the authors' batches (for Python or binary), a name on
    the hub, or None for the hub's usual one. Raises UserError when it is no CIFAR-10.
    """
    if resolution != 32:
        raise UserError(f"dataset.resolution={resolution} does not fit CIFAR-10, whose images are 32x32: leave it out")
    if channels != 3:
        raise UserError(f"dataset.channels={channels} does not fit CIFAR-10, whose images are in colour: leave it out")
    place = Path(path or HUB).expanduser()
    if path is not None and (batches := cifar10_batches.find(place)):
        pixels, labels = cifar10_batches.read(batches, split)
        return Images(pixels, flip, labels)
    here = path is not None and exists(place)
    source, labels = stored(place, split) if here else fetched(path or HUB, split)
    return HeldImages(Readable(source, Exact(32), labels, skip=on_error == "skip"), flip, workers, by_pixels=True)


def stored(folder: Path, split: str) -> tuple[TableSource, torch.Tensor | None]:
    """The rows and classes of all `<split>*.parquet` below `folder`, in file order; one for training may be named."""
    single = split == "train" and folder.suffix == ".parquet" and is_file(folder)
    files = [folder] if single else complete(sorted(folder.rglob(f"{split}*.parquet")))
    if not files:
        raise UserError(f"dataset.path={folder} holds no {split}*.parquet and no batches of CIFAR-10: give a folder with "
                        f"one of them, or {' or '.join(cifar10_batches.ARCHIVES)}")
    table = TableSource.of(files)
    if "fine_label" in parquet.read_schema(files[0]).names:
        raise UserError(f"{files[0]} holds CIFAR-100: give CIFAR-10")
    return table, table.labels()


def fetched(name: str, split: str) -> tuple[MappedSource, torch.Tensor | None]:
    """The rows and classes of `split` of the data set `name` on the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    log.info("fetching %s (about 120 MB) from the Hugging Face hub; dataset.path=<folder> uses a local copy", name)
    try:
        rows = load_dataset(name, split=split)
    except (OSError, DatasetsError) as error:
        raise UserError(f"{name} could not be fetched from the Hugging Face hub ({type(error).__name__}): "
                        "give a local copy with dataset.path=<folder>") from error
    image, label = columns(name, rows.features.arrow_schema)
    labels = None if label is None else torch.tensor(rows.with_format("numpy", columns=[label])[label][:])
    return MappedSource(rows.with_format("arrow"), image, name), labels
