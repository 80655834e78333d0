"""The commands that look at cells and end them: `status`, `logs`, `cancel`."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm_queue import cancel
from experiments.named import planned
from experiments.planning import declarations
from experiments.planning.cells import Cell
from experiments.running.state import CellState, Lone, Watched, runs_in, states_of

EVERY = 10.0        # seconds between two looks of --watch
STATES = ("done", "running", "queued", "waiting", "failed", "stopped")      # the first needs nothing more

AnyCell = TypeVar("AnyCell", Cell, Lone, Watched)


def watched(arguments: argparse.Namespace) -> Sequence[Watched]:
    """The cells of the named tables, or the runs of the named folders; with --cell one of them."""
    folders = [Path(word) for word in arguments.tables if word not in declarations.names() and Path(word).is_dir()]
    if folders and len(folders) < len(arguments.words):
        raise UserError(f"{folders[0]} is a folder of runs, and stands without tables and options")
    cells: Sequence[Watched] = runs_in(folders) if folders else planned(arguments).cells
    return cells if getattr(arguments, "cell", None) is None else [chosen(cells, arguments.cell)]


def chosen(cells: Sequence[AnyCell], number: int) -> AnyCell:
    if not 0 <= number < len(cells):
        raise UserError(f"--cell {number}: there are the cells 0 to {len(cells) - 1}")
    return cells[number]


def show_status(arguments: argparse.Namespace) -> None:
    cells = watched(arguments)
    while True:
        now = states_of(cells)
        if arguments.json:
            print(json.dumps([one.record() for one in now], indent=2))
        else:
            clear = "\x1b[H\x1b[2J" if arguments.watch and sys.stdout.isatty() else ""
            print(clear + summary(now), flush=True)
        if not arguments.watch or not any(one.state in ("running", "queued") for one in now):
            return
        time.sleep(EVERY)


def summary(now: Sequence[CellState]) -> str:
    """A line for each cell, and how many are in each state."""
    counts = Counter(one.state for one in now)
    lines = [f"{number:4}  {one.text()}" for number, one in enumerate(now)]
    return "\n".join([*lines, ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])])


def show_log(arguments: argparse.Namespace) -> None:
    """Prints what the last job of a cell has written, or the run's own messages."""
    now = states_of(watched(arguments))
    if len(now) != 1:
        raise UserError(f"these are {len(now)} cells: choose one with --cell I, 0 to {len(now) - 1}")
    if now[0].log is None:
        raise UserError(f"{now[0].name} has written nothing yet: it is {now[0].state}")
    sys.stdout.write(now[0].log.read_text(errors="replace"))


def cancel_jobs(arguments: argparse.Namespace) -> None:
    """Takes the jobs of cells from Slurm's queue; a run at work keeps its state first."""
    queued = [one.job for one in states_of(watched(arguments)) if one.job is not None and one.job.queued]
    numbers = list(dict.fromkeys(job.number for job in queued))
    if not numbers:
        print("none of these cells is in Slurm's queue")
    elif not cancel(numbers):
        raise UserError(f"scancel {' '.join(numbers)} failed: give it yourself to see why")
    else:
        print(f"cancelled {' '.join(numbers)}: `run` goes on from what they have kept")
