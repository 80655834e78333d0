"""One run, or the jobs of a sweep, from one Hydra configuration."""

import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from tabulate import tabulate

from diffprune.config.compose import CONF, check_overrides, register
from diffprune.config.naming import run_folder, use_decimals
from diffprune.config.sweep_words import varied
from diffprune.config.validation import check
from diffprune.pipeline import reproduce
from diffprune.runs.metrics import Metrics
from diffprune.runs.run import Run
from diffprune.runs.status import last_line
from diffprune.runtime.addresses import hide_secrets
from diffprune.runtime.command_line import MISTAKES, extras_named, one_sentence, sentence
from diffprune.runtime.distributed import current_ranks, disconnect
from diffprune.runtime.errors import Damaged, JobFailed, UserError
from diffprune.runtime.files import refusals_as_user_errors
from diffprune.runtime.interrupt import Interrupt, Interrupted
from diffprune.runtime.progress import duration

log = logging.getLogger("diffprune")


def job(cfg: DictConfig) -> None:
    """One run. A mistake in its options ends the process with one sentence, in a sweep only after the other jobs."""
    try:
        if not current_ranks().is_rank0:
            silence()
        with Interrupt(), extras_named():
            if HydraConfig.get().mode == RunMode.MULTIRUN and current_ranks().world_size == 1:
                return in_sweep(cfg)
            one(cfg)        # where several processes share a job of a sweep, its failure ends them all
    except JobFailed:
        raise
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:     # ends a sweep too
        log.info("%s", stop)
        current_ranks().stop_others(stop.number)
        sys.exit(stop.code)


def one(cfg: DictConfig, healed: Callable[[], None] = lambda: None) -> None:
    """Does the run of `cfg` and shows its table; calls `healed` when the model is fine-tuned."""
    use_decimals(cfg)
    hydra_ = HydraConfig.get() if HydraConfig.initialized() else None
    check(cfg, hydra_.overrides.task if hydra_ else (), hydra_ is not None and hydra_.mode == RunMode.MULTIRUN)
    run = Run(run_folder(cfg, words_in_sweep()))
    with refusals_as_user_errors(run.folder):
        reproduce(cfg, run, healed)
        if current_ranks().is_rank0:
            show(run)


def silence() -> None:
    """Leaves the log to rank 0; the other processes print warnings and errors only."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    log.setLevel(logging.WARNING)


def in_sweep(cfg: DictConfig) -> None:
    """One of several jobs in this process; raises JobFailed."""
    hydra_ = HydraConfig.get()
    log.info("\nrun %d%s: %s", hydra_.job.num + 1, of_jobs(sys.argv[1:]), own_words())
    if reason := attempt(lambda: one(cfg)):
        log.error("failed: %s", reason)
        raise JobFailed(f"{' '.join(hydra_.overrides.task)}: {reason}")


def own_words() -> str:
    """The overrides of this job of a sweep, without those that all jobs have."""
    return " ".join(words_in_sweep() or HydraConfig.get().overrides.task)


def words_in_sweep() -> list[str]:
    """The overrides in which this job of a sweep differs from others; none where it is no job of a sweep."""
    hydra_ = HydraConfig.get() if HydraConfig.initialized() else None
    in_sweep = hydra_ is not None and hydra_.mode == RunMode.MULTIRUN
    return varied(hydra_) if in_sweep else []


def of_jobs(words: Sequence[str]) -> str:
    """" of N" for the number of jobs that the command line's `words` make, "" where they do not say it."""
    try:
        count = prod(len(list(one.sweep_string_iterator())) for one in swept(words))
        return f" of {count}" if swept(words) else ""
    except HydraException:      # an interval
        return ""


def swept(words: Sequence[str]) -> list[Override]:
    """The overrides among the command line's `words` that give several values."""
    try:
        overrides = OverridesParser.create().parse_overrides([word for word in words if "=" in word[1:] and word[0] != "-"])
        return [one for one in overrides if one.is_sweep_override()]
    except HydraException:      # words that are not Hydra's, as on a cluster's nodes
        return []


def sbatch_as_option(words: Sequence[str]) -> list[str]:
    """With `launcher=slurm`, long options that Hydra does not know are sbatch's: they become the option launcher.sbatch."""
    known = set(get_args_parser()._option_string_actions)
    given = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    if not given or "launcher=slurm" not in words:
        return list(words)
    quoted = shlex.join(given).replace('"', '\\"')
    return [word for word in words if word not in given] + [f'launcher.sbatch="{quoted}"']


def summary(runs: Mapping[str, Run]) -> str:
    """A table of the finished runs of a sweep, by their own words: what was reached, before anybody looks at a report."""
    rows = []
    for words, run in runs.items():
        with suppress(FileNotFoundError, Damaged):
            metrics = Metrics.read(run.metrics)
            final = metrics.scores["final"]
            rows.append([words, metrics.params / 1e6, metrics.macs / 1e9, final.get("fid"), final.get("ssim")])
    heads = ["run", "parameters [M]", "MACs [G]", "Fréchet distance ↓", "SSIM to dense ↑"]
    return tabulate(rows, heads, floatfmt=("", ".3f", ".3g", ".2f", ".3f"), missingval="–") if rows else ""


def objective(run: Run) -> float | None:
    """What a sweeper that searches minimises: the final model's Fréchet distance; None where it was not evaluated."""
    return Metrics.read(run.metrics).scores["final"].get("fid") if run.metrics.exists() else None


def attempt(work: Callable[[], None]) -> str | None:
    """Does `work`, one of several jobs in this process, and frees its memory; returns why it failed, and logs a defect's
    traceback. The exception is not kept, since its traceback refers to the job's model."""
    reason = None
    try:
        with extras_named():
            work()
    except MISTAKES as error:
        reason = sentence(error)
    except Exception as error:      # a defect, which must not end the other jobs
        reason = last_line(error)
        log.exception("this job failed")
    gc.collect()
    torch: Any = sys.modules.get("torch")       # never imported for this
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return reason


def hydra_job(overrides: Sequence[str], task: Callable[[DictConfig], Any]) -> Any:
    """Returns `task(cfg)`, called as Hydra calls it for `python -m diffprune OVERRIDES`: same log file, same command."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra_ = GlobalHydra.instance().hydra
        assert hydra_ is not None
        return hydra_.run("config", task, list(overrides)).return_value


def show(run: Run) -> None:
    """Prints the table of a finished run, how long it took and the address of its report. That and the model card are
    written first where they are missing or old, and where the folder is no read-only archive."""
    if run.metrics.exists():
        from diffprune.report import terminal_table, write_report
        from diffprune.report.model_card import write_card
        log.info("\n%s\n\nall stages took %s", terminal_table(run.folder),
                 duration(sum(Metrics.read(run.metrics).seconds.values())))
        try:
            with extras_named():
                recent = run.report.exists() and run.report.stat().st_mtime >= run.metrics.stat().st_mtime
                if not recent and os.access(run.folder, os.W_OK):
                    write_report(run.folder)
            if os.access(run.final_model(), os.W_OK):
                write_card(run)
            if run.report.exists():
                log.info("report: %s\nto compare runs: python -m diffprune.report %s", run.report.absolute().as_uri(),
                         run.folder.parent.parent)
        except UserError as error:
            log.info("no report: %s", error)


def main() -> None:
    register()
    hide_secrets()
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    failed: list[JobFailed] = []
    runs: dict[str, Run] = {}

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def entry(cfg: DictConfig) -> float | None:
        try:
            job(cfg)
            run = Run(run_folder(cfg, words_in_sweep()))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                runs[own_words()] = run
            return objective(run)
        except JobFailed as failure:    # Hydra would report the first alone
            failed.append(failure)
            raise

    with one_sentence():
        sys.argv[1:] = sbatch_as_option(sys.argv[1:])
        check_overrides([word for word in sys.argv[1:] if not word.startswith("-")])
        try:
            try:
                entry()
            finally:
                if len(runs) > 1 and (table := summary(runs)):
                    log.info("\n%s\n", table)
        except JobFailed as first:
            reasons = "\n".join(map(str, failed or [first])).split("\n")
            title = f"{len(reasons)} {'job' if len(reasons) == 1 else 'jobs'} of the sweep failed:"
            raise UserError("\n  ".join([title, *reasons])) from None
        except (FileExistsError, NotADirectoryError) as error:   # a sweep's folder is made before its jobs are checked
            raise UserError(f"{error.filename} is to be a folder and cannot be one: give another paths.runs") from error
        disconnect()

