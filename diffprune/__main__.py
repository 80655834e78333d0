"""`python -m diffprune`: one run, or with -m a sweep, from one Hydra configuration."""

import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffprune.command import one_sentence
from diffprune.composition import check, register
from diffprune.errors import UserError
from diffprune.interrupt import Interrupted
from diffprune.pipeline import reproduce
from diffprune.ranks import leave, present
from diffprune.run import Run

log = logging.getLogger("diffprune")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def job(cfg: DictConfig) -> None:
    """One run. A user's mistake ends it with one sentence; in a sweep that is said after the other jobs had their turn."""
    if not present().first:
        silence()
    try:
        check(cfg)
        reproduce(cfg, run := Run.of(cfg))
        if present().first:
            show(run)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.RUN or present().size > 1:     # the other processes must not go on alone
            sys.exit(f"error: {error}")
        raise
    except Interrupted as stop:     # ends a sweep too
        log.info("%s", stop)
        sys.exit(stop.code)


def silence() -> None:
    """The first process alone tells and keeps a log; the others say only what goes wrong."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    log.setLevel(logging.WARNING)


def show(run: Run) -> None:
    """Prints the table of a finished run, and where its report is, which is written when it is missing."""
    if run.metrics.exists():
        from diffprune.report import terminal_table, write_report
        if not run.report.exists() or run.report.stat().st_mtime < run.metrics.stat().st_mtime:
            write_report(run.folder)
        log.info("\n%s\n\nreport: %s", terminal_table(run.folder), run.report)


def main() -> None:
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    with one_sentence():
        job()
    leave()


if __name__ == "__main__":
    main()
