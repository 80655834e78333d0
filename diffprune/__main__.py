"""`python -m diffprune`: one run, or with -m a sweep, from one Hydra configuration."""

import gc
import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffprune.config.compose import register
from diffprune.config.naming import run_folder
from diffprune.config.validation import check
from diffprune.pipeline import reproduce
from diffprune.runs.run import Run
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.distributed import current_ranks, disconnect
from diffprune.runtime.errors import JobFailed, UserError
from diffprune.runtime.interrupt import Interrupt, Interrupted

log = logging.getLogger("diffprune")


def job(cfg: DictConfig) -> None:
    """One run. A user's mistake ends it with one sentence; in a sweep the other jobs have their turn all the same."""
    if not current_ranks().is_rank0:
        silence()
    try:
        with Interrupt():
            if HydraConfig.get().mode == RunMode.MULTIRUN and current_ranks().world_size == 1:
                return in_sweep(cfg)
            one(cfg)        # where several processes share a sweep's job, its failure ends them all
    except JobFailed:
        raise
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:     # ends a sweep too
        log.info("%s", stop)
        sys.exit(stop.code)


def one(cfg: DictConfig) -> None:
    check(cfg)
    reproduce(cfg, run := Run(run_folder(cfg)))
    if current_ranks().is_rank0:
        show(run)


def silence() -> None:
    """For all ranks but 0, which alone writes the log: the others print warnings and errors only."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    log.setLevel(logging.WARNING)


def in_sweep(cfg: DictConfig) -> None:
    """One job of several in this process, after which nothing of it is left; raises JobFailed, a defect's traceback logged.

    Hydra keeps what a job raises until the last job is over, and with an exception's traceback the model it was about.
    """
    reason = None
    try:
        one(cfg)
    except UserError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.exception("this job failed")
    gc.collect()
    if reason is not None:
        log.error("failed: %s", reason)
        raise JobFailed(f"{' '.join(HydraConfig.get().overrides.task)}: {reason}")


def show(run: Run) -> None:
    """Prints the table of a finished run, and where its report is, which is written when it is missing."""
    if run.metrics.exists():
        from diffprune.report import terminal_table, write_report
        if not run.report.exists() or run.report.stat().st_mtime < run.metrics.stat().st_mtime:
            write_report(run.folder)
        log.info("\n%s\n\nreport: %s", terminal_table(run.folder), run.report)


def listed(failed: list[JobFailed]) -> str:
    """What failed in a sweep, a line for each job."""
    return "\n  ".join([f"{len(failed)} {'job' if len(failed) == 1 else 'jobs'} of the sweep failed:", *map(str, failed)])


def main() -> None:
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    failed: list[JobFailed] = []

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def entry(cfg: DictConfig) -> None:
        try:
            job(cfg)
        except JobFailed as failure:    # Hydra would tell of the first alone
            failed.append(failure)
            raise

    with one_sentence():
        try:
            entry()
        except JobFailed as first:
            raise UserError(listed(failed or [first])) from None
    disconnect()


if __name__ == "__main__":
    main()
