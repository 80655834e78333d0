"""Where a run's numbers and pictures go besides its folder."""

import logging
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffprune.config import masked
from diffprune.run import Run

log = logging.getLogger(__name__)


ID_LENGTH = 64      # the service takes no longer ones; a name's end is its hash


class Tracker:
    """Keeps nothing: what a run needs is in its folder anyway. The interface that other trackers fill."""

    def start(self, cfg: DictConfig, run: Run) -> None:
        """Called once before the first stage that has work to do."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Numbers of a fine-tuning step."""

    def image(self, name: str, path: Path, step: int | None = None) -> None:
        """A picture that lies at `path`."""

    def summary(self, values: dict[str, Any]) -> None:
        """The run's final numbers."""

    def finish(self, failed: bool = False) -> None:
        """Called once at the end, also after an error."""


class WandbTracker(Tracker):
    """One Weights & Biases run per run folder, under an id made from its name, so that a resumed run goes on there."""

    def __init__(self, project: str, entity: str | None, group: str | None) -> None:
        self.project, self.entity, self.group, self.run = project, entity, group, None

    def start(self, cfg: DictConfig, run: Run) -> None:
        import wandb
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        folder = Path(cfg.paths.runs)
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project, entity=self.entity, group=self.group or cfg.dataset.name, name=run.name,
            id=run.name[-ID_LENGTH:], config=flat(cfg), tags=[cfg.dataset.name, cfg.pruner.name], dir=folder, mode=mode,
            resume="allow", reinit="finish_previous", settings=wandb.Settings(silent=True, console="off"))
        self.run.define_metric("train/*", step_metric="train/step")
        if mode == "offline":
            log.info("W&B offline: `wandb sync %s` sends this run later", Path(self.run.dir).parent)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.run.log({f"train/{name}": value for name, value in values.items()} | {"train/step": step})

    def image(self, name: str, path: Path, step: int | None = None) -> None:
        import wandb
        self.run.log({name: wandb.Image(str(path))} | ({} if step is None else {"train/step": step}))

    def summary(self, values: dict[str, Any]) -> None:
        self.run.summary.update(values)

    def finish(self, failed: bool = False) -> None:
        if self.run is not None:
            self.run.finish(exit_code=int(failed))


def logged_in() -> bool:
    """Whether an API key is at hand, found without asking anybody."""
    import wandb
    return bool(wandb.login(prompt=False))


def flat(cfg: DictConfig) -> dict[str, Any]:
    """{`group/option`: value}: one level, so that a dashboard can group and filter by every option."""
    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {k: v for key, child in node.items() for k, v in walk(child, f"{prefix}/{key}" if prefix else key).items()}
    return walk(OmegaConf.to_container(masked(cfg), resolve=True), "")
