"""The images that a caller gives: a batch, a data set, a folder, or one that the package carries."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from diffprune.data import digits, image_folder
from diffprune.data.loading.images import Images, ImageSet
from diffprune.diffusion.pixels import to_uint8
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

Data = Tensor | ImageSet | str | Path
SHIPPED = "shipped:digits"
LATENT_LIMIT = 30.0     # latents have about unit variance; pixels that were not scaled reach 255


def image_set(data: Data, shape: tuple[int, int, int]) -> ImageSet:
    """The images of `data` as a set of images of `shape` (C, H, W): a batch of floats [N, C, H, W] in [-1, 1], which become
    bytes; a data set; the path of a folder of images, whose sub-folders are classes; or "shipped:digits".

    Raises UserError where there are none, or where they have another shape.
    """
    if isinstance(data, Tensor):
        check_images(data)
        images: ImageSet = Images(to_uint8(data.cpu()).permute(0, 3, 1, 2).contiguous(), flip=False)
    elif isinstance(data, ImageSet):
        images = data
    elif data == SHIPPED:
        images = digits.load(None, flip=False)
    else:
        channels, height, width = shape
        if height != width:
            raise UserError(f"the model draws images of {height}x{width} pixels, and a folder is read as squares: give a "
                            "batch of images")
        images = image_folder.load(str(data), height, channels, flip=False)
    if not len(images):
        raise UserError("the data set has no images: give at least one")
    if (given := tuple(images.take(torch.tensor([0]))[0].shape[1:])) != shape:
        raise UserError(f"the model draws images of shape {shape}, the data has {given}: give images of the model's shape")
    return images


def check_images(images: Tensor) -> None:
    """UserError where `images` are no batch of floats on the scale of images in [-1, 1] or of a model's latents."""
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise UserError(f"images are {images.dtype} of shape {list(images.shape)}: give floats [B, C, H, W] in [-1, 1], "
                        "which bytes become by images / 127.5 - 1")
    low, high = images.aminmax()
    if not -LATENT_LIMIT <= low <= high <= LATENT_LIMIT:
        raise UserError(f"images lie between {low:g} and {high:g}: give them in [-1, 1], or the scaled latents of a latent "
                        "model")
    if low >= 0:
        log.warning("images lie between %g and %g, and models are trained on images in [-1, 1], black at -1", low, high)
