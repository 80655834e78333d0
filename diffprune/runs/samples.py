"""The files with the sets of images of one run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.files import read_json, write_json


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
        write_json(run.samples_report, asdict(self))

    @classmethod
    def read(cls, run: Run) -> "Samples":
        return cls(**read_json(run.samples_report))

    def files(self, run: Run, cache: Cache) -> dict[str, Path]:
        """{"final", "dense", "before_healing": the array file}, of the sets that were drawn."""
        return {"final": run.images} | {name: cache.folder / file for name, file in self.sets.items()}
