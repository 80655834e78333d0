"""What a run is: five stages, each a file in the run folder, done by one process or by many together."""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffprune.config.compose import made
from diffprune.config.naming import masked
from diffprune.config.schema import STAGES
from diffprune.runs.cache import Cache, locked
from diffprune.runs.data_record import data_moved
from diffprune.runs.provenance import note_commit
from diffprune.runs.run import Run
from diffprune.runs.samples import Samples
from diffprune.runs.status import RunStatus, keep_status
from diffprune.runtime.distributed import Ranks, current_ranks
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import refusals_as_user_errors
from diffprune.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def reproduce(cfg: DictConfig, run: Run, healed: Callable[[], None] = lambda: None) -> None:
    """Makes a scored, pruned successor of the dense model; a stage is skipped when its output exists. Calls `healed` when
    the final model exists, before it is sampled."""
    with stages(cfg, run) as stage:
        for each in run.rounds(cfg.schedule.rounds):                     # one, unless schedule.rounds asks for more
            stage("score", each, each.scores)                            # what each channel is worth
            stage("prune", each, each.pruned, each.prune_report)         # the model without the least important channels
            stage("finetune", each, each.final(cfg.schedule.steps > 0))  # the same model, fine-tuned
        healed()
        stage("sample", run, run.images, run.grid, *image_files(cfg, run))    # its images, from the dense model's noise
        stage("evaluate", run, run.metrics)                              # how good, how alike, how fast


def image_files(cfg: DictConfig, run: Run) -> list[Path]:
    """samples.json and, for rank 0 while they are still to be evaluated, the sets of images that it lists."""
    if not current_ranks().is_rank0 or run.metrics.exists() or not run.samples_report.exists():
        return [run.samples_report]
    return [run.samples_report, *Samples.read(run).files(run, Cache(Path(cfg.paths.cache))).values()]


class Stages:
    """Calls a stage where one of the files it writes is missing, up to the last round's `until`.

    Fine-tuning and sampling are done by all processes of a run together: rank 0 calls `stage`, the others `join`. In the
    other stages they wait.
    """

    def __init__(self, cfg: DictConfig, run: Run, ranks: Ranks) -> None:
        self.cfg, self.run, self.ranks = cfg, run, ranks
        self.tracker: Tracker | None = None

    def __call__(self, name: str, run: Run, *writes: Path) -> None:
        wanted = not run.round.last or STAGES.index(name) <= STAGES.index(self.cfg.until)
        due = wanted and not all(file.exists() for file in writes)
        if not self.ranks.broadcast_from_rank0(due):    # rank 0's view of a shared disk is the one that counts
            return
        # Imported when a stage is due, since torch and diffusers take seconds.
        from diffprune.stages import evaluate, finetune, prune, sample, score
        if self.tracker is None:
            self.tracker = self.begin()
        if self.ranks.is_rank0:
            log.info("%s%s …", name, run.round)
            note_commit(run, f"{name}{run.round}")
            modules = {"score": score, "prune": prune, "finetune": finetune, "sample": sample, "evaluate": evaluate}
            modules[name].stage(self.cfg, run, self.tracker)
        elif shared := {"finetune": finetune, "sample": sample}.get(name):
            shared.join(self.cfg, run)
        self.ranks.barrier()

    def begin(self) -> Tracker:
        """Fails early: checks the device and what later stages need before the first one starts; then opens the tracker."""
        from diffprune.evaluation.features import load_extractor
        from diffprune.evaluation.reference import file_statistics
        from diffprune.stages import evaluate, options
        log.info("computing on %s", options.execution(self.cfg))
        options.import_family(self.cfg)
        if not self.ranks.is_rank0:
            return Tracker()
        if STAGES.index(self.cfg.until) >= STAGES.index("finetune"):
            options.recipe(self.cfg)
        if self.cfg.dataset.held_out:
            options.parts(self.cfg, options.load_images(self.cfg))
        if self.cfg.until == STAGES[-1]:
            evaluate.further_metrics(self.cfg)
            extractor = load_extractor(self.cfg.evaluate.features, self.cfg.evaluate.weights)
            extractor.check(options.image_shape(self.cfg))
            if self.cfg.evaluate.reference is not None:
                file_statistics(Path(self.cfg.evaluate.reference), extractor)
        tracker = made(self.cfg.logger, Tracker)
        tracker.start(self.run, options.description(self.cfg))
        return tracker


@contextmanager
def stages(cfg: DictConfig, run: Run) -> Generator[Stages]:
    """The stages of one run, while no other run works on it; the tracker is closed at the end, whatever happens."""
    ranks = current_ranks()
    with ExitStack() as held:
        if ranks.is_rank0:
            done = RunStatus.of(run, cfg.until).state == "done"     # needs no writing, which a read-only archive forbids
            try:
                held.enter_context(locked(Cache(Path(cfg.paths.cache)).lock(run.name), run.name))
            except UserError:
                if not done:
                    raise
            if data_moved(run, cfg.dataset.path):   # checked for a finished run too: its numbers belong to its data
                from diffprune.stages.options import begin_data, load_images
                begin_data(cfg, run, load_images(cfg))
            held.enter_context(keep_status(run, cfg.until))
            held.enter_context(refusals_as_user_errors(run.folder))     # inside, so that the status tells the sentence
            if not done or os.access(run.folder, os.W_OK):
                run.open(OmegaConf.to_yaml(masked(cfg), resolve=True))
        ranks.barrier()
        stage, failed = Stages(cfg, run, ranks), True
        try:
            yield stage
            failed = False
        finally:
            if stage.tracker is not None:
                stage.tracker.finish(failed)
