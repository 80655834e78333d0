"""A finished run, as its files tell it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from safetensors import safe_open

from diffprune.config import science
from diffprune.errors import UserError
from diffprune.files import read_json
from diffprune.run import Run


@dataclass(frozen=True)
class Scoring:
    """The walk over the timesteps: `loss` [T] is L_t; the gradients of `kept` timesteps were summed.

    They are the first, unless `alpha` [T] says how each of them counts.
    """
    loss: np.ndarray
    threshold: float
    kept: int
    alpha: np.ndarray | None = None


@dataclass(frozen=True)
class Finished:
    """`options` are those that change the science; what a stage did not write is None or empty."""
    run: Run
    options: dict[str, Any]
    metrics: dict[str, Any]
    pruning: dict[str, Any]
    scoring: Scoring | None
    progress: list[dict[str, float]]

    @classmethod
    def of(cls, folder: Path) -> "Finished":
        """Reads the run in `folder`; raises UserError when it is not there or not finished."""
        run = Run(Path(folder))
        for file in (run.metrics, run.config):
            if not file.exists():
                raise UserError(f"{run.folder} is no finished run, it has no {file.relative_to(run.folder)}: "
                                "repeat the run's command to finish it")
        return cls(run, science(OmegaConf.load(run.config)), read_json(run.metrics),
                   read_json(run.prune_report) if run.prune_report.exists() else {},
                   read_scoring(run.scores), read_progress(run.progress))

    has_dense = property(lambda self: self.options["model"]["checkpoint"] is not None)
    is_pruned = property(lambda self: self.options["pruner"].get("ratio") != 0)      # a target has found it where it lacks
    is_trained = property(lambda self: self.options["schedule"]["steps"] > 0)
    is_dense = property(lambda self: not self.is_pruned and not self.is_trained)
    knows_dense = property(lambda self: self.has_dense or self.is_dense or self.is_pruned)   # its size at least

    @property
    def before(self) -> str:
        """What the model was before it was trained."""
        return "pruned before healing" if self.is_pruned else "before training"

    @property
    def final(self) -> str:
        """What the model is that this run ends with."""
        if self.is_pruned and self.options["pruner"]["reinitialise"]:
            return "pruned, trained from scratch" if self.is_trained else "pruned, fresh weights"
        if self.is_pruned:
            return "pruned and healed" if self.is_trained else "pruned"
        if self.is_trained:
            return "fine-tuned, not pruned" if self.has_dense else "trained"
        return "dense"


def read_scoring(path: Path) -> Scoring | None:
    """The loss curve, where a walk was made; no other tensor is read."""
    if not path.exists():
        return None
    with safe_open(path, "numpy") as file:
        if "loss" not in file.keys():   # noqa: SIM118  (a safetensors handle is no mapping)
            return None
        about = json.loads(file.metadata()["about"])
        alpha = file.get_tensor("alpha") if "alpha" in file.keys() else None    # noqa: SIM118
        return Scoring(file.get_tensor("loss"), about["threshold"], about["kept"], alpha)


def read_progress(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Run folders in or below `paths`, each once: the finished ones and those without metrics.json.

    Raises UserError for a path that does not exist.
    """
    finished: set[Path] = set()
    started: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no folder {path}: name run folders, or folders above them")
        finished |= {file.parent.resolve() for file in path.rglob("metrics.json")}
        started |= {file.parent.parent.resolve() for file in path.rglob(".hydra/config.yaml")}
    return sorted(finished), sorted(started - finished)
