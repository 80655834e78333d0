"""The files with the sets of images of one run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.checksums import check, intact
from diffprune.runtime.errors import Damaged
from diffprune.runtime.files import read_record, write_json


@dataclass(frozen=True)
class Samples:
    """The content of samples.json: how many `images` each set has, how they were drawn, and the `seconds` that took.

    `sets` has the sets that several runs share, "dense" and "before_healing", by their files relative to the cache's folder.
    """
    images: int
    sampler: dict[str, Any]
    sets: dict[str, str]
    seconds: float

    def write(self, run: Run) -> None:
        write_json(run.samples_report, asdict(self), checksum=True)

    @classmethod
    def read(cls, run: Run) -> "Samples":
        return read_record(cls, run.samples_report)

    def files(self, run: Run, cache: Cache) -> dict[str, Path]:
        """{"final", "dense", "before_healing": the array file}, of the sets that were drawn. Damaged ones of the cache are
        deleted, to be drawn anew; raises Damaged for the run's own."""
        shared = {name: cache.folder / file for name, file in self.sets.items()}
        check(run.images)
        for file in shared.values():
            intact(file)
        return {"final": run.images} | shared


def read_images(file: Path) -> np.ndarray:
    """The images of an array file, uint8 [N, H, W, C], mapped; raises Damaged."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Damaged(f"{file} is no array file ({error}): it is damaged, delete it and repeat the command") from error
