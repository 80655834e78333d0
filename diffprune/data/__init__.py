"""Data sets: one file each, all giving an `ImageSet`, in memory or streamed."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffprune.data.images import ImageSet


def load_images(cfg: DictConfig) -> ImageSet:
    """The training images of `dataset=`; raises UserError when they cannot be read."""
    return instantiate(cfg.dataset)
