"""The interface between a run and a tracker of experiments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprune.runs.run import Run


@dataclass(frozen=True)
class Description:
    """A run's `options` as a plain dict, those of them that change its result (`science`), and the folder of all `runs`."""
    runs: Path
    options: dict[str, Any]
    science: dict[str, Any]


class Tracker:
    """Keeps nothing: what a run needs is in its folder anyway. The interface that other trackers implement. `keeps_images`
    says whether an image is worth drawing for it."""
    keeps_images = False

    def start(self, run: Run, description: Description) -> None:
        """Called once before the first stage that has work to do."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Receives numbers of a training step."""

    def image(self, name: str, path: Path, step: int | None = None) -> None:
        """Receives an image file."""

    def summary(self, values: dict[str, Any]) -> None:
        """Receives the run's final numbers."""

    def finish(self, failed: bool = False) -> None:
        """Called once at the end, also after an error."""
