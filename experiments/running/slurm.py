"""A table's cells as Slurm arrays, submitted as `-m launcher=slurm` submits the jobs of a sweep."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffprune.config.compose import composed
from diffprune.runtime import slurm_queue
from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import Options, Submission, site_options
from experiments.planning.cells import Cell
from experiments.running.cell import SEPARATOR
from experiments.running.waves import Task, in_waves


@dataclass(frozen=True)
class Wishes:
    """What the command asks for: at most `cap` jobs at once, `pack` cells in each, sbatch's `options`, or a dry run."""
    cap: int | None = None
    pack: int = 1
    options: Options = field(default_factory=dict)
    dry_run: bool = False

    def check(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise UserError(f"--cap {self.cap} lets no cell run: give a number from 1 on")
        if self.pack < 1:
            raise UserError(f"--pack {self.pack} puts no cell into a job: give a number from 1 on")


def submit(cells: Sequence[Cell], everything: Sequence[Cell], name: str, wishes: Wishes) -> None:
    """Submits the `cells` that are not in Slurm's queue; those that need what another cell of the plan `everything` makes
    start after its job. A dry run prints the batch scripts and the cells' commands."""
    wishes.check()
    if not cells:
        print("nothing to submit")
        return
    folder = cells[0].folder.parent.parent / ".slurm"
    queued = {key: job.number for key, job in slurm_queue.jobs(folder).items() if job.queued}
    left = [cell for cell in cells if cell.key not in queued]
    tasks = in_waves(left, everything, queued, wishes.pack)
    submit_tasks(tasks, folder, name, wishes)
    if wishes.dry_run:
        print(*(shlex.join(command(task)) for task in tasks), sep="\n")
    already = f", {len(cells) - len(left)} are in the queue already" if len(left) < len(cells) else ""
    print(f"{'would submit' if wishes.dry_run else 'submitted'} {len(left)} cells{already}")


def submit_tasks(tasks: Sequence[Task], folder: Path, name: str, wishes: Wishes) -> None:
    """Submits tasks with the same options, after the same jobs, as arrays; with a cap one array after the other."""
    numbers: list[str] = []         # of the tasks' jobs
    for _, alike in groupby(tasks, lambda task: (task.after, task.queued, task.sbatch)):
        group = list(alike)
        chain = [number.partition("_")[0] for number in numbers[-1:] if wishes.cap]
        after = dict.fromkeys([*(numbers[task] for task in group[0].after), *group[0].queued, *chain])
        commands = [command(task) for task in group]
        jobs = submission(folder, name, wishes.cap, dict(group[0].sbatch) | wishes.options).submit(
            os.execvp, [(words[0], words) for words in commands], [[cell.key for cell in task.cells] for task in group],
            wishes.dry_run, after)
        first = len(numbers) + 1
        numbers += [job.job_id for job in jobs] or [f"JOB-OF-COMMAND-{first + i}" for i in range(len(group))]


def command(task: Task) -> list[str]:
    """What the task's job runs: experiments/running/cell.py with the overrides of each of its cells."""
    words = [word for cell in task.cells for word in (SEPARATOR, *cell.overrides)]
    return [sys.executable, "-m", "experiments.running.cell", *words[1:]]


def submission(folder: Path, name: str, cap: int | None, options: Options) -> Submission:
    """The parameters of `conf/launcher/slurm.yaml`, under the site's options and the given ones."""
    launcher: Any = OmegaConf.to_container(composed(("launcher=slurm",), with_hydra=True).hydra.launcher, resolve=True)
    parameters = launcher | {"submitit_folder": folder, "name": re.sub(r"[^\w.-]+", "-", name)}
    return Submission(parameters, site_options() | options, cap)
