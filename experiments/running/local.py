"""Cells in this process, one after the other; nothing of a cell is left in memory when the next one begins."""

import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from glob import escape
from math import inf
from pathlib import Path

from omegaconf import DictConfig

from diffprune.config.compose import read_run
from diffprune.config.naming import science, words_of
from diffprune.config.schema import STAGES
from diffprune.job import attempt, hydra_job, one
from diffprune.runs.cache import Cache, locked
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus, last_line, note
from diffprune.runtime.checksums import check, check_list
from diffprune.runtime.command_line import MISTAKES, sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, atomic_folder
from diffprune.runtime.interrupt import RESUME, Interrupt, Interrupted
from experiments.planning.cells import Cell, model_of

log = logging.getLogger("diffprune")
DONE, FAILED = 0, 1     # exit statuses, with RESUME
# A run's files up to fine-tuning.
MODEL = ("scores", "prune_report", "pruned", "progress", "held_out_losses", "finetuned", "data", "model")
POLL = 5.0              # seconds between looks at a cell that another process is doing


def run(cells: Sequence[Cell], since: float = inf, wait: bool = False) -> int:
    """Does the cells that are not done; returns the exit status DONE, FAILED or RESUME. A cell that another process is doing
    is skipped, or with `wait` waited for. A cell that failed after `since` (in seconds since 1970) is not tried again."""
    failed, busy, stopped = [], 0, False
    with Interrupt() as interrupt:
        for number, cell in enumerate(cells, 1):
            try:
                now = left_by_others(cell) if wait else cell.status
                busy += now.state == "running"
                if now.state in ("done", "running") or (now.state == "failed" and (now.ended or 0) > since):
                    continue
                print(f"\n{number} of {len(cells)}: {cell.name}", flush=True)
                if reason := do(cell):
                    failed.append(f"{cell.name}: {reason}")
            except Interrupted as stop:
                print(f"{cell.name}: {stop}", file=sys.stderr)
                interrupt.requested, stopped = 0, True      # answered
                break
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    if busy:
        print(f"{busy} cells are running elsewhere", file=sys.stderr)
    return RESUME if stopped else FAILED if failed else RESUME if busy else DONE


def left_by_others(cell: Cell) -> RunStatus:
    """Waits while another process does the cell, until it ends or its heartbeat stops; returns the run's status then."""
    while (now := cell.status).state == "running":
        log.info("waiting for %s, which process %d on %s is doing", cell.name, now.pid, now.host)
        while cell.status == now:
            time.sleep(POLL)
    return now


def do(cell: Cell) -> str | None:
    """Does one cell as `python -m diffprune` with its overrides does; returns why it failed. Raises Interrupted."""
    def work(cfg: DictConfig) -> None:
        with ExitStack() as held:
            share_model(cell, Cache(Path(cfg.paths.cache)), held)
            one(cfg, healed=held.close)

    try:
        reason = hydra_job(cell.overrides, lambda cfg: attempt(partial(work, cfg)))
    except MISTAKES as error:       # in composing the configuration
        reason = sentence(error)
    except Interrupted as stop:
        note_once(cell, stop)
        raise
    if reason:
        note_once(cell, UserError(reason))
    return reason


def note_once(cell: Cell, error: BaseException) -> None:
    """Records in the run's status why a cell failed before its stages began; the stages record their own failures. Where
    another process is doing the cell, this one's failure says nothing about the run."""
    now = cell.status
    by_another = now.state == "running" and (now.host, now.pid) != (socket.gethostname(), os.getpid())
    if not by_another and now.state != "done" and now.reason != last_line(error):
        note(cell.run, cell.until, error)


def share_model(cell: Cell, cache: Cache, held: ExitStack) -> None:
    """Takes over the fine-tuned model of a run that differs in sampling and evaluation alone. Of several such cells the
    first makes the model; the others wait until it closes `held`."""
    trains = cell.options["schedule"]["steps"] > 0 and STAGES.index(cell.until) >= STAGES.index("finetune")
    if not trains or cell.run.finetuned.exists():
        return
    held.enter_context(locked(cache.lock(f"model-{cell.model}"), f"the model of {cell.name}"))
    if donor := other_with_model(cell):
        with locked(cache.lock(cell.run.name), cell.run.name):
            adopt(donor, cell.run)
        held.close()


def other_with_model(cell: Cell) -> Run | None:
    """Another run with the same fine-tuned model, undamaged, in the same folder of runs; their names begin alike."""
    begin = "-".join([cell.options["model"]["name"], *words_of(cell.options)[:-1]])
    for folder in sorted(cell.folder.parent.glob(f"{escape(begin)}-*")):
        other = Run(folder)
        if folder == cell.folder or not other.finetuned.exists() or not other.config.exists():
            continue
        try:
            if model_of(science(read_run(other.config))) == cell.model:
                for name in MODEL:
                    (check_list if getattr(other, name).is_dir() else check)(getattr(other, name))
                return other
        except MISTAKES as error:
            log.warning("the model of %s is not taken: %s", folder, sentence(error))
    return None


def adopt(donor: Run, run: Run) -> None:
    """Gives `run` the files of `donor`'s stages up to fine-tuning, as hard links where the disk allows it."""
    log.info("takes the model of %s", donor.folder)
    for name in MODEL:
        source, target = getattr(donor, name), getattr(run, name)
        if target.exists() or not source.exists():
            continue
        if source.is_dir():
            with atomic_folder(target) as partial_folder:
                shutil.copytree(source, partial_folder, copy_function=link_or_copy)
        else:
            with atomic_file(target, checksum=True) as partial_file:
                link_or_copy(source, partial_file)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link, since these files are never changed in place; a copy where the disk allows no link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
