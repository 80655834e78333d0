"""What a run is: five stages, each a file in the run folder, done by one process or by many together."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffprune.config.schema import STAGES
from diffprune.runs.cache import Cache, locked
from diffprune.runs.run import Run
from diffprune.runs.status import standing
from diffprune.runtime.distributed import Ranks, present
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import full
from diffprune.tracking.tracker import Tracker

# The stages that all processes of a run do together: the first calls `stage`, the rest `join`. In the others they wait.
SHARED = ("finetune", "sample")

log = logging.getLogger(__name__)


def reproduce(cfg: DictConfig, run: Run, healed: Callable[[], None] = lambda: None) -> None:
    """From the dense model to its scored, pruned successor; whatever is there already is not made again.

    Calls `healed` when the model is there, before it is sampled.
    """
    with stages(cfg, run) as stage:
        for part in run.rounds(cfg):                                     # one, unless schedule.rounds asks for more
            stage("score", part, part.scores)                            # what each channel is worth
            stage("prune", part, part.pruned, part.prune_report)         # the model without the least of them
            stage("finetune", part, part.final(cfg))                     # the same model, healed
        healed()
        stage("sample", run, run.images, run.grid, run.samples_report)   # its images, from the dense model's noise
        stage("evaluate", run, run.metrics)                              # how good, how alike, how fast


class Stages:
    """Calls `diffprune.stages.<name>.stage` where one of the files it writes is missing, up to the last round's `until`."""

    def __init__(self, cfg: DictConfig, run: Run, ranks: Ranks) -> None:
        self.cfg, self.run, self.ranks, self.tracker = cfg, run, ranks, None

    def __call__(self, name: str, run: Run, *writes: Path) -> None:
        wanted = not run.round.last or STAGES.index(name) <= STAGES.index(self.cfg.until)
        due = wanted and not all(file.exists() for file in writes)
        if not self.ranks.of_first(due):    # whose view of a shared disk is the one that counts
            return
        if self.tracker is None:
            self.tracker = self.begin()
        if self.ranks.first:
            log.info("%s%s …", name, run.round)
            import_module(f"diffprune.stages.{name}").stage(self.cfg, run, self.tracker)
        elif name in SHARED:
            import_module(f"diffprune.stages.{name}").join(self.cfg, run)
        self.ranks.wait()

    def begin(self) -> Tracker:
        """What any stage will need is looked for before the first one starts; then the first process's tracker opens."""
        import_module("diffprune.models.device").device_of(self.cfg)
        if not self.ranks.first:
            return Tracker()
        if self.cfg.until == STAGES[-1]:
            extractor = import_module("diffprune.evaluation.features").load_extractor(self.cfg.evaluate.features,
                                                                           self.cfg.evaluate.weights)
            extractor.check((self.cfg.dataset.channels, *[self.cfg.dataset.resolution] * 2))
        tracker = instantiate(self.cfg.logger)
        tracker.start(self.cfg, self.run)
        return tracker


@contextmanager
def stages(cfg: DictConfig, run: Run) -> Iterator[Stages]:
    """The stages of one run, while no other run works on it; the tracker is closed at the end, whatever happens."""
    ranks = present()
    with ExitStack() as held:
        if ranks.first:
            held.enter_context(locked(Cache(Path(cfg.paths.cache)).lock(run.name), run.name))
            if run.moved(cfg):      # also where nothing is left to do: the numbers are those of the data it was begun with
                import_module("diffprune.data").load_images(cfg, run)
            held.enter_context(standing(run, cfg.until))
            run.open(cfg)
        ranks.wait()
        stage, failed = Stages(cfg, run, ranks), True
        try:
            yield stage
            failed = False
        except OSError as error:
            if full(error):
                raise UserError(f"the disk of {run.folder} is full: make room and repeat the command, which goes on from "
                                "what is finished") from error
            raise
        finally:
            if stage.tracker is not None:
                stage.tracker.finish(failed)
