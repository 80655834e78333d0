"""The commands that begin work: `prepare`, `run`, `retry`."""

import argparse
import logging
import os
import re
import shlex
from collections.abc import Sequence

from diffprune.runtime.errors import UserError
from experiments.named import planned
from experiments.planning.cells import Cell, check_ready, elsewhere
from experiments.running.state import states_of
from experiments.watching import chosen

ON_SLURM = re.compile(r"launcher=slurm|launcher\.files_on_nodes=\w+")      # what tables heed of the launcher


def prepare(arguments: argparse.Namespace) -> None:
    """Fetches what the cells need from elsewhere."""
    from experiments.running.prepare import prepare  # imports torch
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_ready(cells := planned(arguments).cells)
    prepare(cells)


def start(arguments: argparse.Namespace, states: Sequence[str]) -> int:
    """Does, or submits to Slurm, the cells whose run is in one of `states`."""
    if ignored := without_effect(arguments):
        raise UserError(f"{' '.join(ignored)}: cells are done here, by --workers, or with launcher=slurm, whose options are "
                        "--cap, --pack and those of sbatch (--partition=gpu --time=4:00:00)")
    cells = everything = planned(arguments).cells
    if arguments.cell is not None:
        cells = [chosen(cells, arguments.cell)]
    on_slurm = "launcher=slurm" in arguments.words
    cells = [cell for cell, now in zip(cells, states_of(cells), strict=True) if now.state in states]
    if on_slurm:
        submit(arguments, [cell for cell in cells if cell.status.state != "running"], everything)
        return 0
    check_ready(cells)
    if arguments.dry_run:
        for cell in cells:
            print(shlex.join(cell.command))
        return 0
    from experiments.running.local import run
    from experiments.running.workers import WORKER, own_first, started_at, work
    if arguments.workers > 1 and WORKER not in os.environ:
        return work(cells, arguments.own, arguments.workers)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(own_first(cells), started_at())


def submit(arguments: argparse.Namespace, cells: Sequence[Cell], everything: Sequence[Cell]) -> None:
    """Submits `cells` of the plan `everything` to Slurm, after a check of their files."""
    from diffprune.config.compose import composed
    from diffprune.runtime.slurm import sbatch_options
    from experiments.running import slurm
    check_ready(cells, composed([word for word in arguments.words if elsewhere(word)]).launcher.files_on_nodes)
    options = sbatch_options(arguments.sbatch, "the command line")
    wishes = slurm.Wishes(arguments.cap, arguments.pack, options, arguments.dry_run)
    slurm.submit(cells, everything, "-".join(arguments.tables), wishes)


def without_effect(arguments: argparse.Namespace) -> list[str]:
    """The options that have no effect where the cells are to be done: here, or on Slurm."""
    launching = [word for word in arguments.words if elsewhere(word)]
    if "launcher=slurm" in launching:
        return [word for word in launching if not ON_SLURM.fullmatch(word)] + ["--workers"] * (arguments.workers > 1)
    return [*arguments.sbatch, *(word for word in launching if word != "launcher=local"),
            *["--cap"] * (arguments.cap is not None), *["--pack"] * (arguments.pack != 1)]
