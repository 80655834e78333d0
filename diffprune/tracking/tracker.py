"""What a run tells a tracker."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffprune.runs.run import Run


class Tracker:
    """Keeps nothing: what a run needs is in its folder anyway. The interface that other trackers fill."""

    def start(self, cfg: DictConfig, run: Run) -> None:
        """Called once before the first stage that has work to do."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Numbers of a fine-tuning step."""

    def image(self, name: str, path: Path, step: int | None = None) -> None:
        """A picture that lies at `path`."""

    def summary(self, values: dict[str, Any]) -> None:
        """The run's final numbers."""

    def finish(self, failed: bool = False) -> None:
        """Called once at the end, also after an error."""
