"""What a run is: five stages, each a file in the run folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffprune.config import STAGES
from diffprune.run import Cache, Run, locked
from diffprune.standing import standing
from diffprune.track import Tracker

log = logging.getLogger(__name__)


def reproduce(cfg: DictConfig, run: Run) -> None:
    """From the dense model to its scored, pruned successor; whatever is there already is not made again."""
    with stages(cfg, run) as stage:
        stage("score", run.scores)                                  # what each channel is worth
        stage("prune", run.pruned, run.prune_report)                # the model without the least of them
        stage("finetune", run.final(cfg))                           # the same model, healed
        stage("sample", run.images, run.grid, run.samples_report)   # its images, from the dense model's noise
        stage("evaluate", run.metrics)                              # how good, how alike, how fast


class Stages:
    """Calls `diffprune.stages.<name>.stage` where one of the files it writes is missing, up to `until`."""

    def __init__(self, cfg: DictConfig, run: Run) -> None:
        self.cfg, self.run, self.tracker = cfg, run, None

    def __call__(self, name: str, *writes: Path) -> None:
        if STAGES.index(name) > STAGES.index(self.cfg.until) or all(file.exists() for file in writes):
            return
        if self.tracker is None:
            self.tracker = self.begin()
        log.info("%s …", name)
        import_module(f"diffprune.stages.{name}").stage(self.cfg, self.run, self.tracker)

    def begin(self) -> Tracker:
        """What any stage will need is looked for before the first one starts; then the tracker opens."""
        if self.cfg.until == STAGES[-1]:
            extractor = import_module("diffprune.features").load_extractor(self.cfg.evaluate.features,
                                                                           self.cfg.evaluate.weights)
            extractor.check((self.cfg.dataset.channels, *[self.cfg.dataset.resolution] * 2))
        import_module("diffprune.models").device_of(self.cfg)
        tracker = instantiate(self.cfg.logger)
        tracker.start(self.cfg, self.run)
        return tracker


@contextmanager
def stages(cfg: DictConfig, run: Run) -> Iterator[Stages]:
    """The stages of one run, while no other process works on it; the tracker is closed at the end, whatever happens."""
    with locked(Cache(Path(cfg.paths.cache)).lock(run.name), run.name), standing(run, cfg.until):
        run.open(cfg)
        stage, failed = Stages(cfg, run), True
        try:
            yield stage
            failed = False
        finally:
            if stage.tracker is not None:
                stage.tracker.finish(failed)
