"""Stage 3: fine-tune the pruned model, which heals most of what pruning has cost."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.data.loading.images import ImageSet
from diffprune.evaluation.held_out_loss import held_out_loss
from diffprune.models.model_folder import save_model
from diffprune.runs.data_record import note_skipped
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runtime.distributed import current_ranks
from diffprune.runtime.files import read_json, remove, write_json
from diffprune.runtime.interrupt import Interrupt, Interrupted
from diffprune.sampling.preview import Preview
from diffprune.stages import options
from diffprune.tracking.tracker import Tracker
from diffprune.training.state_files import newest_state, read_state, write_state
from diffprune.training.steps import remaining_batches
from diffprune.training.trainer import Trainer

log = logging.getLogger(__name__)


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `finetuned/`, the averaged weights after the round's steps; resumes from the newest state that a run has kept.

    Raises Interrupted after a request to stop, with the state of the last finished step kept; several ranks finish the step
    that they are in together. Raises UserError, and the states stay, where a weight is NaN or infinite at the end.
    """
    ranks, previous_steps, recipe = current_ranks(), run.round.steps_before(cfg.schedule.steps), options.healing(cfg, run)
    if cfg.schedule.equal_cost and ranks.is_rank0:
        log.info("at equal cost %d steps are paid for by %d of the noise objective", recipe.steps, cfg.schedule.steps)
    teacher = options.load_teacher(cfg, run)
    how = options.execution(cfg).compiled_for(recipe.steps * EVALUATIONS_PER_STEP)
    trainer = Trainer(options.load_own(cfg, run.pruned), recipe, how, cfg.seed, ranks, previous_steps, teacher,
                      options.kept_channels(cfg, run, teacher))
    checkpoints = Checkpoints(cfg.schedule, run, trainer)
    checkpoints.resume()
    # Rank 0 compares the data with those that the run was begun with, before any rank trains on them.
    whole = options.load_images(cfg)
    trainer.model.check_classes(whole.labels, whole.class_count)
    if ranks.is_rank0:
        options.begin_data(cfg, run, whole)
    images, held_out = options.parts(cfg, whole)
    ranks.barrier()
    with Interrupt(at_once=ranks.world_size == 1) as interrupt, ranks.lost_rank_as_user_error():
        with (ProgressLog(run.progress, trainer.step, tracker.log, previous_steps) if ranks.is_rank0
              else nullcontext()) as progress_log:
            observers = [Previews(cfg, run, trainer, tracker)]
            if held_out is not None:
                observers.append(HeldOutCurve(cfg, run, trainer, tracker, held_out))
            train(cfg, trainer, images.to(trainer.device), checkpoints, interrupt, progress_log, observers)
        if ranks.is_rank0:
            note_skipped(run, whole.skipped)
            # Save the averaged weights, unless one is NaN or infinite, and delete the states.
            with interrupt.held():
                trainer.check_state()
                trainer.swap()
                save_model(trainer.model, run.finetuned)
                for state in run.states:
                    remove(state)


def join(cfg: DictConfig, run: Run) -> None:
    """What the other ranks do meanwhile: they train on their images of every batch, and write nothing."""
    stage(cfg, run, Tracker())


def train(cfg: DictConfig, trainer: Trainer, images: ImageSet, checkpoints: "Checkpoints", interrupt: Interrupt,
          progress_log: ProgressLog | None, observers: Sequence["Observer"]) -> None:
    """Trains from `trainer.step` to the last step; a step depends on the state before and on (seed, global step) alone."""
    schedule, ranks, steps = cfg.schedule, trainer.ranks, trainer.recipe.steps
    batches = remaining_batches(trainer, images)
    try:
        # A killed run may have kept the state of this step and not looked at it.
        for observer in observers:
            observer.look(interrupt)
        for batch, labels in batches:
            # Until the update nothing has changed: a request to stop leaves the step at once.
            loss = trainer.gradients(batch, labels)
            # From here on it waits until the step is finished, logged and kept.
            with interrupt.held():
                trainer.update(loss)
                log_step(schedule.log_every, trainer, progress_log)
                if any(observer.due() for observer in observers) or (trainer.step < steps and checkpoints.due()):
                    checkpoints.save()
                for observer in observers:
                    observer.look(interrupt)
            # All ranks stop after the same step.
            if signal_number := ranks.all_reduce_max(interrupt.requested):
                raise Interrupted(signal_number)
    except Interrupted:
        with interrupt.held():
            checkpoints.save()
        raise


def log_step(log_every: int, trainer: Trainer, progress_log: ProgressLog | None) -> None:
    """Checks the last step's loss, and every `log_every` steps and at the end writes it down."""
    due = trainer.step % log_every == 0 or trainer.step == trainer.recipe.steps
    if due or trainer.device.type == "cpu":     # reading the loss would make the host wait for a GPU
        trainer.check()
    if due:
        loss = trainer.mean_loss()
        if progress_log is not None:
            progress_log.write(trainer.step, loss, trainer.recipe.learning_rate(trainer.step - 1))


class Observer(ABC):
    """Looks at a training now and then, with the averaged weights; rank 0 looks, the others wait. It changes nothing and can
    be left at once."""

    def __init__(self, run: Run, trainer: Trainer, tracker: Tracker) -> None:
        self.run, self.trainer, self.tracker = run, trainer, tracker

    @abstractmethod
    def due(self) -> bool:
        """Whether the present step is to be looked at."""

    @abstractmethod
    def missing(self) -> bool:
        """Whether that has not been done yet."""

    @abstractmethod
    def record(self) -> None:
        """Looks at the trainer's model."""

    def look(self, interrupt: Interrupt) -> None:
        if not self.due():
            return
        with interrupt.left_at_once():
            if self.trainer.ranks.is_rank0 and self.missing():
                self.trainer.swap()
                try:
                    self.record()
                finally:
                    self.trainer.swap()
            self.trainer.ranks.barrier()


class Previews(Observer):
    """The previews of a training, one every `preview_every` steps."""

    def __init__(self, cfg: DictConfig, run: Run, trainer: Trainer, tracker: Tracker) -> None:
        super().__init__(run, trainer, tracker)
        self.every = cfg.schedule.preview_every
        self.preview = Preview(options.sampler_options(cfg), trainer.execution.approximate,
                               None if cfg.model.checkpoint is None else partial(options.load_dense, cfg, run))

    @property
    def path(self) -> Path:
        return self.run.preview(self.trainer.step)

    def due(self) -> bool:
        return self.every > 0 and self.trainer.step > 0 and self.trainer.step % self.every == 0

    def missing(self) -> bool:
        return not self.path.exists()

    def record(self) -> None:
        self.preview.draw(self.trainer.model, self.path)
        self.tracker.image("preview", self.path, self.trainer.global_step)


class HeldOutCurve(Observer):
    """The loss on the images `held_out`, before the training, every `measure_every` steps and at the end: {step: the mean
    over all timesteps} in the run's file. Of an earlier file it keeps the steps before the one that the training goes on
    from: what came after them belongs to a training that is repeated."""

    def __init__(self, cfg: DictConfig, run: Run, trainer: Trainer, tracker: Tracker, held_out: ImageSet) -> None:
        super().__init__(run, trainer, tracker)
        self.every, self.batch, self.images = cfg.schedule.measure_every, cfg.sampler.batch, held_out
        if trainer.ranks.is_rank0 and (measured := self.measured()):
            earlier = {step: loss for step, loss in measured.items() if int(step) < trainer.step}
            write_json(run.held_out_losses, earlier, checksum=True)

    def due(self) -> bool:
        step = self.trainer.step
        return self.every > 0 and (step % self.every == 0 or step == self.trainer.recipe.steps)

    def measured(self) -> dict[str, float]:
        return read_json(self.run.held_out_losses) if self.run.held_out_losses.exists() else {}

    def missing(self) -> bool:
        return str(self.trainer.step) not in self.measured()

    def record(self) -> None:
        loss = fmean(held_out_loss(self.trainer.model, self.images, self.batch))
        write_json(self.run.held_out_losses, self.measured() | {str(self.trainer.step): loss}, checksum=True)
        self.tracker.log({"held_out_loss": loss}, self.trainer.global_step)


class Checkpoints:
    """The states that a training keeps on the disk, as often as `schedule` says; rank 0 alone writes."""

    def __init__(self, schedule: DictConfig, run: Run, trainer: Trainer) -> None:
        self.schedule, self.run, self.trainer, self.ranks = schedule, run, trainer, trainer.ranks
        self.saved_step, self.saved_at = 0, time.monotonic()

    def resume(self) -> None:
        """Restores the newest undamaged state, the same in every rank; without one the training starts at step 0."""
        newest = newest_state(self.run.states) if self.ranks.is_rank0 else None
        step = self.ranks.broadcast_from_rank0(0 if newest is None else newest[1]["step"])
        if self.ranks.is_rank0:
            for damaged in [path for path in self.run.states if path > self.run.state(step)]:
                remove(damaged)     # else `save` would take it for the newest
        if step:
            self.trainer.restore(*(newest or read_state(self.run.state(step))))
            self.saved_step = step
            log.info("going on at step %d of %d", step, self.trainer.recipe.steps)

    def due(self) -> bool:
        """Whether the present step is to be kept: every `save_every` steps, and `save_minutes` (rank 0's) after the last."""
        minutes = self.schedule.save_minutes
        return self.trainer.step % self.schedule.save_every == 0 or (minutes is not None and bool(
            self.ranks.broadcast_from_rank0(time.monotonic() - self.saved_at >= 60 * minutes)))

    def save(self) -> None:
        """Writes the state, once per step, and deletes older ones; UserError instead where one is NaN or infinite."""
        trainer = self.trainer
        if self.saved_step == trainer.step:
            return
        trainer.check()
        if self.ranks.is_rank0:
            write_state(self.run.state(trainer.step), *trainer.state())
            for older in self.run.states[:-self.schedule.keep_last]:
                remove(older)
        self.saved_step, self.saved_at = trainer.step, time.monotonic()
        self.ranks.barrier()
