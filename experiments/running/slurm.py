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
from diffprune.runtime.slurm import Submission, queued_keys, sbatch_options, site_options
from experiments.planning.cells import Cell


def submit(cells: Sequence[Cell], name: str, cap: int | None, words: Sequence[str], dry_run: bool) -> None:
    """Submits the cells that are not in Slurm's queue, with the sbatch options `words`; at most `cap` of them run at once. A
    dry run prints the batch scripts and the cells' commands."""
    if cap is not None and cap < 1:
        raise UserError(f"--cap {cap} lets no cell run: give a number from 1 on")
    if not cells:
        print("nothing to submit")
        return
    folder = cells[0].folder.parent.parent / ".slurm"
    queued = queued_keys(folder)
    keys = [f"{cell.folder.absolute()} {cell.until}" for cell in cells]
    left = {key: cell.described(False)["command"] for key, cell in zip(keys, cells, strict=True) if key not in queued}
    submission(folder, name, cap, words).submit(os.execvp, [(command[0], command) for command in left.values()],
                                                list(left), dry_run)
    if dry_run:
        print(*map(shlex.join, left.values()), sep="\n")
    already = f", {len(cells) - len(left)} are in the queue already" if len(left) < len(cells) else ""
    print(f"{'would submit' if dry_run else 'submitted'} {len(left)} cells{already}")


def submission(folder: Path, name: str, cap: int | None, words: Sequence[str]) -> Submission:
    """The parameters of `conf/launcher/slurm.yaml`, under the site's options and those given as `words`."""
    launcher: Any = OmegaConf.to_container(composed(("launcher=slurm",), with_hydra=True).hydra.launcher, resolve=True)
    options = site_options() | sbatch_options(words, "the command line")
    return Submission(launcher | {"submitit_folder": folder, "name": re.sub(r"[^\w.-]+", "-", name)}, options, cap)
