"""Cells done here, one after the other in one process: nothing of a cell is left when the next one begins."""

import copy
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import escape
from math import inf
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf, open_dict

from diffprune.__main__ import show
from diffprune.config.naming import science
from diffprune.config.schema import STAGES
from diffprune.config.validation import check
from diffprune.pipeline import reproduce
from diffprune.runs.cache import Cache, locked
from diffprune.runs.run import Run
from diffprune.runs.status import Standing, last_line, note, resumable
from diffprune.runtime.command_line import sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, atomic_folder
from experiments.planning.cells import Cell, model_of
from experiments.planning.composed import composed

log = logging.getLogger("diffprune")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)      # a cluster's two ways to ask a job to stop
DONE, FAILED, RESUME = 0, 1, 75     # exit statuses; 75 is EX_TEMPFAIL of sysexits.h: the same command goes on
LOOK = 5.0          # seconds between looks at a cell that somebody else is doing


def run(cells: Sequence[Cell], since: float = inf, wait: bool = False) -> int:
    """Does those of `cells` that are not done; returns the exit status.

    One that somebody else is doing is left to them, or with `wait` waited for. One that failed after `since` (in seconds
    since 1970) has had its turn.
    """
    failed: list[str] = []
    busy, stopped = 0, False
    with interruptible():
        for number, cell in enumerate(cells, 1):
            try:
                now = left_by_others(cell) if wait else cell.standing
                busy += now.state == "running"
                if now.state in ("done", "running") or (now.state == "failed" and (now.ended or 0) > since):
                    continue
                print(f"\n{number} of {len(cells)}: {cell.name}", flush=True)
                do(cell)
            except BaseException as error:
                if resumable(error):
                    print(f"{cell.name}: {last_line(error)}; the same command goes on", file=sys.stderr)
                    stopped = True
                    break
                if not isinstance(error, Exception):
                    raise
                failed.append(f"{cell.name}: {told(cell, error)}")
            clean_up()
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    if busy:
        print(f"{busy} cells are running elsewhere", file=sys.stderr)
    return RESUME if stopped else FAILED if failed else RESUME if busy else DONE


def left_by_others(cell: Cell) -> Standing:
    """How the cell stands when nobody does it any more: they have ended, or not been heard of for a while."""
    while (now := cell.standing).state == "running":
        log.info("waiting for %s, which process %d on %s is doing", cell.name, now.pid, now.host)
        while cell.standing == now:
            time.sleep(LOOK)
    return now


def do(cell: Cell) -> None:
    """One cell, as `python -m diffprune` with its overrides does it."""
    former = HydraConfig.instance().cfg
    try:
        with_hydra = composed(cell.overrides, with_hydra=True)
        cfg = without_hydra(with_hydra)
        check(cfg)
        begin_log(with_hydra, cell.run)
        with ExitStack() as model:
            model.enter_context(model_shared(cell, Cache(Path(cfg.paths.cache))))
            reproduce(cfg, cell.run, healed=model.close)
        show(cell.run)
    except BaseException as error:
        note_once(cell, error)
        raise
    finally:
        HydraConfig.instance().cfg = former


def begin_log(cfg: DictConfig, run: Run) -> None:
    """The run's own log file, as Hydra writes it, and what it keeps of the command."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(run.folder.absolute())
    HydraConfig.instance().set_config(cfg)
    configure_log(cfg.hydra.job_logging, False)


def without_hydra(cfg: DictConfig) -> DictConfig:
    own = copy.deepcopy(cfg)
    with open_dict(own):
        del own["hydra"]
    return own


def note_once(cell: Cell, error: BaseException) -> None:
    """Writes down why a cell failed before its stages began; after that they have done so themselves.

    Where another process is at work on it, what this one came to says nothing about it.
    """
    known = cell.standing
    if known.state == "running" and (known.host, known.pid) != (socket.gethostname(), os.getpid()):
        return
    if known.state != "done" and known.reason != last_line(error):
        note(cell.run, cell.until, error)


def told(cell: Cell, error: Exception) -> str:
    """What went wrong on one line; a defect's traceback goes to the log."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return sentence(error)
    log.error("%s\n%s", cell.name, "".join(traceback.format_exception(error)))
    return last_line(error)


@contextmanager
def model_shared(cell: Cell, cache: Cache) -> Iterator[None]:
    """Takes over the healed model of a run that differs in sampling and evaluation alone; of several the first makes it.

    The others wait as long as the maker stays inside.
    """
    trains = cell.options["schedule"]["steps"] > 0 and STAGES.index(cell.until) >= STAGES.index("finetune")
    if not trains or cell.run.finetuned.exists():
        yield
        return
    with locked(cache.lock(f"model-{cell.model}"), f"the model of {cell.name}"):
        donor = other_with_model(cell)
        if donor is None:
            yield
            return
        with locked(cache.lock(cell.run.name), cell.run.name):
            adopt(donor, cell.run)
    yield


def other_with_model(cell: Cell) -> Run | None:
    """A run in the same folder of runs whose healed model is the cell's; their names are alike up to the hash."""
    for folder in sorted(cell.folder.parent.glob(f"{escape(cell.run.name.rpartition('-')[0])}-*")):
        other = Run(folder)
        if folder != cell.folder and other.finetuned.exists() and other.config.exists() \
                and model_of(science(OmegaConf.load(other.config))) == cell.model:
            return other
    return None


def adopt(donor: Run, run: Run) -> None:
    """Gives `run` the files of the stages up to healing that `donor` has: the same files where the disk can share them."""
    log.info("takes the model of %s", donor.folder)
    for source, target in ((donor.scores, run.scores), (donor.prune_report, run.prune_report), (donor.pruned, run.pruned),
                           (donor.progress, run.progress), (donor.finetuned, run.finetuned), (donor.data, run.data)):
        if source.exists() and not target.exists():
            if source.is_dir():
                with atomic_folder(target) as partial:
                    shutil.copytree(source, partial, copy_function=shared_file)
            else:
                with atomic_file(target) as partial:
                    shared_file(source, partial)


def shared_file(source: str | Path, target: str | Path) -> None:
    """A second name for a file that nobody changes in place, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def interruptible() -> Iterator[None]:
    """A cluster's requests to stop end the work as Ctrl-C does; what it has finished so far is kept."""
    def stop(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")

    former = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def clean_up() -> None:
    """Gives back what the last cell held; a failed one was held by its traceback."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
