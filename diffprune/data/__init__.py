"""Data sets: one file each, all giving an `Images`."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffprune.data.images import Images


def load_images(cfg: DictConfig) -> Images:
    """The training images of `dataset=`; raises UserError when they cannot be read."""
    return instantiate(cfg.dataset)
