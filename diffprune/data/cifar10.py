"""CIFAR-10's training images, from a local Parquet folder or the Hugging Face hub."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyarrow import ArrowException, parquet

from diffprune.data.images import Images
from diffprune.errors import UserError

log = logging.getLogger(__name__)

HUB = "uoft-cs/cifar10"


def load(path: str | None, flip: bool, split: str = "train", **_: Any) -> Images:
    """The images of `split` (train: 50 000, test: 10 000) as [N, 3, 32, 32] with their classes.

    Raises UserError when `path` is no CIFAR-10 Parquet folder.
    """
    rows = list(from_hub(split) if path is None else from_folder(path, split))
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image, _ in rows]))
    return Images(pixels.permute(0, 3, 1, 2).contiguous(), flip, torch.tensor([label for _, label in rows]))


def from_hub(split: str) -> Iterator[tuple[Image.Image, int]]:
    from datasets import load_dataset
    log.info("fetching %s (about 120 MB) from the Hugging Face hub; dataset.path=<folder> uses a local copy", HUB)
    try:
        yield from ((row["img"], row["label"]) for row in load_dataset(HUB, split=split))
    except OSError as error:
        raise UserError(f"{HUB} could not be fetched ({type(error).__name__}): "
                        "give a local copy with dataset.path=<folder>") from error


def from_folder(path: str, split: str) -> Iterator[tuple[Image.Image, int]]:
    """Images and classes of every `<split>*.parquet` below `path`, in file order (columns `img` {bytes, path}, `label`)."""
    files = sorted(Path(path).expanduser().rglob(f"{split}*.parquet"))
    if not files:
        raise UserError(f"dataset.path={path} holds no {split}*.parquet: give the folder of CIFAR-10's Parquet files")
    for file in files:
        try:
            for row in parquet.read_table(file, columns=["img", "label"]).to_pylist():
                yield Image.open(io.BytesIO(row["img"]["bytes"])), row["label"]
        except (OSError, ArrowException) as error:
            raise UserError(f"{file} cannot be read as CIFAR-10 in Parquet: copy it again") from error
