"""How cells stand: by their folders, and by Slurm where they were submitted to it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffprune.config.schema import STAGES
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime.progress import duration
from diffprune.runtime.slurm import key_of
from diffprune.runtime.slurm_queue import Job, jobs, states
from experiments.planning.cells import Cell

SUBMITTED = ".slurm"        # in a folder of runs: what was submitted from it


@dataclass(frozen=True)
class Lone:
    """A run of which its folder alone is known."""
    name: str
    run: Run
    until: str = STAGES[-1]

    @property
    def steps(self) -> int:
        """Of its training; 0 where the run has not begun."""
        try:
            return yaml.safe_load(self.run.config.read_text())["schedule"]["steps"]
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            return 0


Watched = Cell | Lone


@dataclass(frozen=True)
class CellState:
    """`state`: done, running, queued, waiting (never submitted), failed or stopped; `reason` of the last two; `job`: the
    last that was submitted for the run; `step` of `steps` of its training, which takes about `seconds_left` more."""
    name: str
    folder: Path
    state: str
    reason: str
    status: RunStatus
    job: Job | None
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None

    @property
    def log(self) -> Path | None:
        """The file with the output of the run's last job, or with the run's own messages."""
        files = [self.job.log] if self.job else []
        return next((file for file in [*files, Run(self.folder).log] if file.exists()), None)

    def text(self) -> str:
        """One line for a person, and a second one for what is to be looked up of a run that is not done."""
        training = [f"step {self.step} of {self.steps}"] if self.step else []
        left = [f"about {duration(self.seconds_left)} of training left"] if self.seconds_left else []
        about = [f"on {self.status.host}", *training, *left] if self.state == "running" else [self.reason]
        line = f"{self.state:8}  {self.name}{': ' * any(about)}{', '.join(about)}"
        job = [f"job {self.job.number}{in_queue(self.job)}"] if self.job else []
        found = [*job, *([str(self.log)] if self.log else [])]
        return line if self.state in ("done", "waiting") or not found else f"{line}\n{'':16}{', '.join(found)}"

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        line = self.job.line if self.job else None
        return {"title": self.name, "folder": str(self.folder), "state": self.state, "reason": self.reason} | {
            name: getattr(self.status, name) for name in ("host", "pid", "since", "ended")} | {
            "job": self.job.number if self.job else None, "slurm_state": line.state if line else None,
            "slurm_reason": line.reason if line else None, "log": str(self.log) if self.log else None,
            "step": self.step, "steps": self.steps, "seconds_left": self.seconds_left}


def in_queue(job: Job) -> str:
    """What Slurm says of a job in its queue: its state, why it waits, or how long it may run."""
    if job.line is None:
        return ""
    return f" {job.line.state} ({job.line.reason})" if job.line.state == "PENDING" else (
        f" {job.line.state}, {job.line.left} to its limit")


def states_of(cells: Sequence[Watched]) -> list[CellState]:
    """How each of the cells stands now."""
    submitted = cache(jobs)
    of_array = cache(states)
    found = []
    for cell in cells:
        own = submitted(cell.run.folder.parent.parent / SUBMITTED)
        found.append(state_of(cell, own.get(key_of(cell.run.folder, cell.until)), of_array))
    return found


def state_of(cell: Watched, job: Job | None, of_array: Callable[[str], dict[str, str]]) -> CellState:
    """How a cell with this last job stands; `of_array` tells what became of an array's jobs."""
    status = RunStatus.of(cell.run, cell.until)
    state, reason = status.state, status.reason
    if state not in ("done", "running") and job is not None:
        if job.queued:
            state, reason = "queued", ""
        elif not begun_since(cell.run, job.at):
            ended = of_array(job.array).get(job.number, "")
            # Of a task that was cancelled while it waited, a Slurm without accounting knows nothing; it has no log.
            cancelled = ended.startswith("CANCELLED") or not (ended or job.log.exists())
            state = "stopped" if cancelled else "failed"
            reason = f"its job ended before the run began ({ended or 'Slurm does not know it any more'})"
    step, left = training(cell.run, cell.steps) if state == "running" else (0, None)
    return CellState(cell.name, cell.run.folder, state, reason, status, job, step, cell.steps, left)


def begun_since(run: Run, at: float) -> bool:
    """Whether the run's status was written after the time `at`."""
    return run.status.exists() and run.status.stat().st_mtime >= at


def training(run: Run, steps: int) -> tuple[int, float | None]:
    """How many of the training's `steps` are logged, over all rounds, and the seconds that the others will take."""
    lines = [line for one in (*run.earlier, run) if (line := ProgressLog.last(one.progress))]
    step, seconds = int(sum(line["step"] for line in lines)), sum(line["seconds"] for line in lines)
    return step, seconds / step * (steps - step) if step and steps > step else None


def runs_in(folders: Iterable[Path]) -> list[Lone]:
    """The runs below `folders` (a run's, a data set's, or all runs'), and those that were submitted and have not begun."""
    found: dict[Path, Lone] = {}
    for folder in (folder.absolute() for folder in folders):
        for pattern in ("", "*/", "*/*/"):
            for file in sorted([*folder.glob(f"{pattern}status.json"), *folder.glob(f"{pattern}.hydra/config.yaml")]):
                run = Run(file.parent if file.name == "status.json" else file.parent.parent)
                found.setdefault(run.folder, Lone(run.name, run))
        for place in (folder, folder.parent, folder.parent.parent):
            for key in jobs(place / SUBMITTED):
                run, until = Run(Path(key.rpartition(" ")[0])), key.rpartition(" ")[2]
                if folder in (run.folder, *run.folder.parents):
                    found[run.folder] = Lone(run.name, run, until)
    return list(found.values())
