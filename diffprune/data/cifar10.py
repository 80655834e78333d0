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


def load(path: str | None, flip: bool, **_: Any) -> Images:
    """The training split as [50000, 3, 32, 32]; raises UserError when `path` is no CIFAR-10 Parquet folder."""
    images = np.stack([np.asarray(image.convert("RGB")) for image in (from_hub() if path is None else from_folder(path))])
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), flip)


def from_hub() -> Iterator[Image.Image]:
    from datasets import load_dataset
    log.info("fetching %s (about 120 MB) from the Hugging Face hub; dataset.path=<folder> uses a local copy", HUB)
    try:
        yield from load_dataset(HUB, split="train")["img"]
    except OSError as error:
        raise UserError(f"{HUB} could not be fetched ({type(error).__name__}): "
                        "give a local copy with dataset.path=<folder>") from error


def from_folder(path: str) -> Iterator[Image.Image]:
    """The images of every `train*.parquet` below `path`, in file order (columns `img` {bytes, path} and `label`)."""
    files = sorted(Path(path).expanduser().rglob("train*.parquet"))
    if not files:
        raise UserError(f"dataset.path={path} holds no train*.parquet: give the folder of CIFAR-10's Parquet files")
    for file in files:
        try:
            for row in parquet.read_table(file, columns=["img"])["img"].to_pylist():
                yield Image.open(io.BytesIO(row["bytes"]))
        except (OSError, ArrowException) as error:
            raise UserError(f"{file} cannot be read as CIFAR-10 in Parquet: copy it again") from error
