"""Stage 3: heal the pruned model by training it on."""

import logging
import time

from omegaconf import DictConfig

from diffprune.data import load_images
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.record import list_skipped
from diffprune.models.device import placed
from diffprune.models.model_folder import load_model, save_model
from diffprune.runs.run import Run
from diffprune.runtime.distributed import present
from diffprune.runtime.files import remove
from diffprune.runtime.interrupt import Interrupt, Interrupted
from diffprune.runtime.progress import progress
from diffprune.sampling.preview import Preview
from diffprune.tracking.tracker import Tracker
from diffprune.training.learning_rate import learning_rate
from diffprune.training.progress_log import Journal
from diffprune.training.state_files import keep_last, newest_state, read_state, write_state
from diffprune.training.trainer import Training

log = logging.getLogger(__name__)


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `finetuned/`, the averaged weights after `schedule.steps` steps; goes on where a killed run had come.

    A round takes its share of the steps, and draws on where the rounds before had come. Raises Interrupted when asked to
    stop, with the state of the last finished step kept; several processes finish the one that they are at together.
    """
    before, cfg = run.round.steps_before(cfg.schedule.steps), run.round.healing(cfg)
    training = Training(placed(load_model(run.pruned), cfg), cfg, present(), before)
    keeper = Keeper(cfg, run, training, tracker)
    keeper.go_on()
    images = load_images(cfg, run if training.ranks.first else None).to(training.model.device)
    training.ranks.wait()
    with Interrupt(at_once=training.ranks.size == 1) as interrupt, training.ranks.company():
        if training.ranks.first:
            with Journal(run.progress, training.step, tracker, before) as journal:
                train(cfg, training, images, keeper, interrupt, journal)
            list_skipped(images.skipped, run)
            with interrupt.held():
                finish(training, run)
        else:
            train(cfg, training, images, keeper, interrupt)


def finish(training: Training, run: Run) -> None:
    """Puts the averaged weights in the states' place; raises UserError, and keeps these, where one is no number."""
    training.check_state()
    training.swap()
    save_model(training.model, run.finetuned)
    for state in run.states:
        remove(state)


def join(cfg: DictConfig, run: Run) -> None:
    """What the other processes of a run do meanwhile: their part of every batch; they write nothing."""
    stage(cfg, run, Tracker())


def train(cfg: DictConfig, training: Training, images: ImageSet, keeper: "Keeper", interrupt: Interrupt,
          journal: Journal | None = None) -> None:
    """Trains from `training.step` to `schedule.steps`; step i depends on the state before it and on (seed, i) alone.

    In a later round on (seed, i + the steps of the rounds before).
    """
    recipe, ranks = cfg.schedule, training.ranks
    batches = images.batches(training.place, training.before + recipe.steps, recipe.batch, cfg.seed, ranks.part)
    if ranks.first:
        batches = progress(batches, "fine-tuning", recipe.steps, done=training.step)
    training.student.unet.train()
    try:
        for batch, labels in batches:
            share = training.gradients(batch, labels)
            with interrupt.held():
                training.update(share)
                observe(cfg, training, journal)
                keeper.keep(interrupt)
            if asked := ranks.highest(interrupt.asked):
                raise Interrupted(asked)
    except Interrupted:
        with interrupt.held():
            keeper.save()
        raise


def observe(cfg: DictConfig, training: Training, journal: Journal | None) -> None:
    """After a step: whether its loss is a number, and where it is due a line in the journal."""
    recipe, step = cfg.schedule, training.step
    logged = step % recipe.log_every == 0 or step == recipe.steps
    if logged or training.model.device.type == "cpu":       # a look at the loss makes a GPU's host wait
        training.check()
    if logged:
        loss = training.mean_loss()
        if journal is not None:
            journal.write(step, loss, learning_rate(recipe, step - 1))


class Keeper:
    """Keeps what a training comes back to, and shows how far it is; the first process writes, the others wait for it."""

    def __init__(self, cfg: DictConfig, run: Run, training: Training, tracker: Tracker) -> None:
        self.recipe, self.run, self.training, self.tracker = cfg.schedule, run, training, tracker
        self.preview, self.saved, self.since = Preview(cfg), 0, time.monotonic()

    def go_on(self) -> None:
        """Restores the newest state that is whole, the same in every process; without one the training starts at step 0."""
        training, newest = self.training, None
        if training.ranks.first:
            newest = newest_state(self.run.states)
        step = training.ranks.of_first(0 if newest is None else newest[1]["step"])
        if training.ranks.first:
            for damaged in [path for path in self.run.states if path > self.run.state(step)]:
                remove(damaged)     # or `keep_last` would take it for the newest
        if step:
            training.restore(*(newest or read_state(self.run.state(step))))
            self.saved = step
            log.info("going on at step %d of %d", step, self.recipe.steps)

    def keep(self, interrupt: Interrupt) -> None:
        """The state and the preview grid, each where it is due; a preview can be left at any time, its state is kept."""
        step, steps, every = self.training.step, self.recipe.steps, self.recipe.preview_every
        look = every > 0 and step % every == 0
        if look or (step < steps and (step % self.recipe.save_every == 0 or self.long_ago())):
            self.save()
        if look:
            with interrupt.left_at_once():
                if self.training.ranks.first:
                    self.look()
                self.training.ranks.wait()

    def long_ago(self) -> bool:
        """Whether `save_minutes` have gone since a state was kept, on the first process's clock."""
        minutes = self.recipe.save_minutes
        return minutes is not None and bool(self.training.ranks.of_first(time.monotonic() - self.since >= 60 * minutes))

    def save(self) -> None:
        """Writes the state, once per step; raises UserError in place of one that is no number any more."""
        training = self.training
        if self.saved == training.step:
            return
        training.check()
        if training.ranks.first:
            write_state(self.run.state(training.step), *training.state())
            keep_last(self.run.states, self.recipe.keep_last)
        self.saved, self.since = training.step, time.monotonic()
        training.ranks.wait()

    def look(self) -> None:
        """Draws the preview with the averaged weights."""
        training, picture = self.training, self.run.preview(self.training.step)
        training.swap()
        self.preview.draw(training.model, picture)
        training.swap()
        training.student.unet.train()
        self.tracker.image("preview", picture, training.place)
