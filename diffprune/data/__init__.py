"""Data sets: one file each, all giving an `ImageSet`, in memory or streamed."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from diffprune.config.compose import made
from diffprune.data.loading.images import ImageSet


def load_images(options: Mapping[str, Any]) -> ImageSet:
    """The images that a data set's function, under `_target_`, gives for the other `options`; UserError where it cannot.

    The set that was loaded last is kept: the stages of a run, and the runs of a sweep, read it once.
    """
    return last_loaded(json.dumps(options, sort_keys=True))


@lru_cache(maxsize=1)
def last_loaded(options: str) -> ImageSet:
    return made(json.loads(options))
