"""Data sets: one file each, all giving an `ImageSet`, in memory or streamed."""

import json
from functools import lru_cache

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.record import check_same, recall_key
from diffprune.runs.run import Run


def load_images(cfg: DictConfig, run: Run | None = None) -> ImageSet:
    """The training images of `dataset=`; raises UserError when they cannot be read, or `run` was begun with others.

    The set that was asked for last is kept: the stages of a run, and the runs of a sweep, read it once.
    """
    images = kept(json.dumps(OmegaConf.to_container(cfg.dataset, resolve=True), sort_keys=True))
    if run is not None:
        recall_key(images, cfg)
        check_same(images, cfg, run)
    return images


@lru_cache(maxsize=1)
def kept(options: str) -> ImageSet:
    return instantiate(json.loads(options))
