"""A table's cells as Slurm arrays, submitted as `-m launcher=slurm` submits the jobs of a sweep."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffprune.config.compose import composed
from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import Options, Submission, site_options
from diffprune.runtime.slurm_queue import queued
from experiments.planning.cells import Cell


def submit(cells: Sequence[Cell], name: str, cap: int | None, options: Options, dry_run: bool) -> None:
    """Submits the cells that are not in Slurm's queue, with these sbatch `options`; at most `cap` of them run at once. A dry
    run prints the batch scripts and the cells' commands."""
    if cap is not None and cap < 1:
        raise UserError(f"--cap {cap} lets no cell run: give a number from 1 on")
    if not cells:
        print("nothing to submit")
        return
    folder = cells[0].folder.parent.parent / ".slurm"
    in_queue = queued(folder)
    left = {cell.key: cell.described(False)["command"] for cell in cells if cell.key not in in_queue}
    submission(folder, name, cap, options).submit(os.execvp, [(command[0], command) for command in left.values()],
                                                [[key] for key in left], dry_run)
    if dry_run:
        print(*map(shlex.join, left.values()), sep="\n")
    already = f", {len(cells) - len(left)} are in the queue already" if len(left) < len(cells) else ""
    print(f"{'would submit' if dry_run else 'submitted'} {len(left)} cells{already}")


def submission(folder: Path, name: str, cap: int | None, options: Options) -> Submission:
    """The parameters of `conf/launcher/slurm.yaml`, under the site's options and the given ones."""
    launcher: Any = OmegaConf.to_container(composed(("launcher=slurm",), with_hydra=True).hydra.launcher, resolve=True)
    parameters = launcher | {"submitit_folder": folder, "name": re.sub(r"[^\w.-]+", "-", name)}
    return Submission(parameters, site_options() | options, cap)
