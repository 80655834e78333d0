"""A finished run, as its files tell it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from diffprune.config.naming import prunes, scientific
from diffprune.runs.metrics import Metrics
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runs.score_file import ScoreHeader, TimestepLosses
from diffprune.runs.status import RunStatus
from diffprune.runtime.checksums import check
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import read_json

# What is raised for files without a checksum whose content is not what a run writes.
FOREIGN = (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)


@dataclass(frozen=True)
class Finished:
    """`options` are those that change the results, `scoring` is the loss at every timestep; what a stage did not write is
    None or empty. `timed` says whether the run was asked for its speed, which changes nothing else; `cache` holds the images
    that it shares with others. `held_out_curve` has the loss on held-out images by the steps of training."""
    run: Run
    options: dict[str, Any]
    metrics: Metrics
    pruning: dict[str, Any]
    scoring: TimestepLosses | None
    progress: list[dict[str, float]]
    timed: bool = False
    held_out_curve: dict[str, float] = field(default_factory=dict)
    cache: Path = Path("cache")

    @classmethod
    def of(cls, folder: Path) -> "Finished":
        """Reads the run in `folder`; raises UserError when there is none, it is not finished, or a file is damaged."""
        run = Run(Path(folder))
        for file in (run.metrics, run.config):
            if not file.exists():
                raise UserError(f"{run.folder} is no finished run, it has no {file.relative_to(run.folder)}: "
                                "repeat the run's command to finish it")
        try:
            # The file has no interpolations, and libyaml reads it in a twentieth of the time that OmegaConf takes.
            check(run.config)
            options = yaml.load(run.config.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            timed = bool(options["evaluate"].get("speed"))      # before `scientific` takes these out
            cache = Path(options.get("paths", {}).get("cache", "cache"))
            pruning = read_json(run.prune_report) if run.prune_report.exists() else {}
            scoring = ScoreHeader.read(run.scores).losses if run.scores.exists() else None
            progress = ProgressLog.read(run.progress)
            curve = read_json(run.held_out_losses) if run.held_out_losses.exists() else {}
            return cls(run, scientific(options), Metrics.read(run.metrics), pruning, scoring, progress, timed, curve,
                       cache)
        except FOREIGN as error:
            raise Damaged(f"{run.folder} has a file whose content no run writes ({type(error).__name__}: "
                          f"{str(error).partition(chr(10))[0]}): repeat the run's command in another folder") from error

    has_dense = property(lambda self: self.options["model"]["checkpoint"] is not None)
    is_pruned = property(lambda self: prunes(self.options))
    is_trained = property(lambda self: self.options["schedule"]["steps"] > 0)
    is_dense = property(lambda self: not self.is_pruned and not self.is_trained)
    knows_dense = property(lambda self: self.has_dense or self.is_dense or self.is_pruned)   # its size at least

    @property
    def steps(self) -> int:
        """The training steps over all rounds; at equal cost those that were taken, which `schedule.steps` does not say."""
        schedule = self.options["schedule"]
        return int(self.progress[-1]["step"]) if schedule.get("equal_cost") and self.progress else schedule["steps"]

    @property
    def folder_of_model(self) -> Path | None:
        """The folder of the model with which the run ends; None where it was not kept, as that of a dense run."""
        folder = self.run.final(self.is_trained)
        return folder if (folder / "model_index.json").exists() else None

    @property
    def ended(self) -> str | None:
        """The day on which the run ended, in UTC; None where its folder does not say."""
        seconds = RunStatus.of(self.run).ended
        return datetime.fromtimestamp(seconds, UTC).date().isoformat() if seconds else None

    @property
    def address(self) -> str | None:
        """The run's page in Weights & Biases, where it was online."""
        try:
            url = str(read_json(self.run.tracked)["url"])
        except (OSError, UserError, *FOREIGN):
            return None
        return url if url.startswith(("https://", "http://")) else None

    @property
    def model(self) -> str:
        """The model and the data set, in words."""
        return f"{self.options['model']['name']} on {self.options['dataset']['name']}"

    @property
    def before_healing(self) -> str:
        """The name of the model before it was trained."""
        return "pruned before healing" if self.is_pruned else "before training"

    @property
    def final(self) -> str:
        """The name of the model with which this run ends."""
        if self.is_pruned and self.options["pruner"]["reinitialise"]:
            return "pruned, trained from scratch" if self.is_trained else "pruned, fresh weights"
        if self.is_pruned:
            return "pruned and healed" if self.is_trained else "pruned"
        if self.is_trained:
            return "fine-tuned, not pruned" if self.has_dense else "trained"
        return "dense"


def read_all(folders: Iterable[Path]) -> tuple[list[Finished], list[tuple[Path, str]]]:
    """The finished runs in `folders`, and those whose files cannot be read, each with the reason."""
    runs: list[Finished] = []
    unreadable: list[tuple[Path, str]] = []
    for folder in folders:
        try:
            runs.append(Finished.of(folder))
        except (UserError, OSError) as error:
            unreadable.append((folder, f"its files cannot be read: {error}"))
    return runs, unreadable


def progress_of(folder: Path) -> str:
    """How far an unfinished run has come, in words."""
    run = Run(folder)
    done = [name for name, file in (("scored", run.scores), ("pruned", run.prune_report), ("fine-tuned", run.finetuned),
                                    ("sampled", run.samples_report)) if file.exists()]
    try:
        training = ProgressLog.read(run.progress)
    except Damaged as error:
        return f"not finished, {error}"
    at = f", in training at step {training[-1]['step']:g}" if training and not run.finetuned.exists() else ""
    return f"not finished, it has no metrics.json ({', '.join(done) or 'no stage is done'}{at})"


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
