"""Stage 3: heal the pruned model by training it on."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from diffprune.checkpoint import DiffusionModel, load_model, save_model
from diffprune.data import load_images
from diffprune.data.images import ImageSet
from diffprune.draw import Preview
from diffprune.files import appearing, remove
from diffprune.models import autocast, device_of
from diffprune.progress import progress
from diffprune.run import Run
from diffprune.track import Tracker
from diffprune.training import Training, finite, noise_prediction_loss, set_dropout, update

log = logging.getLogger(__name__)


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `finetuned/`, the averaged weights after `schedule.steps` steps; goes on where a killed run had come."""
    model, images = load_model(run.pruned).to(device_of(cfg)), load_images(cfg)
    set_dropout(model.unet, cfg.schedule.dropout)
    training, preview = Training.of(model.unet, cfg), Preview(cfg)
    if run.state.exists():
        training.restore(run.state)
        log.info("going on at step %d of %d", training.step, cfg.schedule.steps)
    with Journal(run.progress, training.step, tracker) as journal:
        train(cfg, model, training, images, journal, lambda: checkpoint(cfg, run, model, training, preview, tracker))
    training.swap()
    set_dropout(model.unet, 0.0)
    save_model(model, run.finetuned)
    remove(run.state)


def train(cfg: DictConfig, model: DiffusionModel, training: Training, images: ImageSet, journal: "Journal",
          checkpoint: Callable[[], None]) -> None:
    """Trains from `training.step` to `schedule.steps`; step i depends on the state before it and on (seed, i) alone."""
    recipe, device = cfg.schedule, model.device
    model.unet.train()
    batches = enumerate(images.to(device).batches(training.step, recipe.steps, recipe.batch, cfg.seed), training.step)
    for step, (batch, labels) in progress(batches, "fine-tuning", recipe.steps, done=training.step):
        with autocast(cfg, device):
            x_0, context = model.to_latent(batch.to(device)), model.context(labels)
            loss = noise_prediction_loss(model, x_0, cfg.seed, step, context)
        update(training, loss, recipe)
        training.step = step + 1
        if training.step % recipe.log_every == 0 or training.step == recipe.steps:
            journal.write(training.step, finite(loss.detach(), step), recipe.lr)
        if training.step % recipe.save_every == 0 or preview_due(recipe, training.step):
            checkpoint()


def preview_due(recipe: DictConfig, step: int) -> bool:
    return recipe.preview_every > 0 and step % recipe.preview_every == 0


def checkpoint(cfg: DictConfig, run: Run, model: DiffusionModel, training: Training, preview: Preview,
               tracker: Tracker) -> None:
    """Keeps the state, and draws the preview grid with the averaged weights when one is due."""
    if preview_due(cfg.schedule, training.step):
        training.swap()
        preview.draw(model, run.preview(training.step))
        training.swap()
        model.unet.train()
        tracker.image("preview", run.preview(training.step), training.step)
    if training.step % cfg.schedule.save_every == 0 and training.step < cfg.schedule.steps:
        training.save(run.state)


class Journal:
    """`progress.jsonl`: one line per logged step, continued after a restart without repeating or losing one."""

    def __init__(self, path: Path, step: int, tracker: Tracker) -> None:
        self.path, self.tracker = path, tracker
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self.before = json.loads(kept[-1])["seconds"] if kept else 0.0
        with appearing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept))

    def __enter__(self) -> "Journal":
        self.file, self.start = self.path.open("a", buffering=1), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, step: int, loss: float, lr: float) -> None:
        """`loss` summed over pixels, mean over the batch; `seconds` of training so far, restarts included."""
        seconds = round(self.before + time.monotonic() - self.start, 3)
        self.file.write(json.dumps({"step": step, "loss": loss, "lr": lr, "seconds": seconds}) + "\n")
        self.tracker.log({"loss": loss, "lr": lr, "seconds": seconds}, step)
