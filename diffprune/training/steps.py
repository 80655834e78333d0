"""The batches of a training's remaining steps."""

from collections.abc import Iterator

from diffprune.data.loading.images import ImageSet, Taken
from diffprune.runtime.progress import progress
from diffprune.training.trainer import Trainer


def remaining_batches(trainer: Trainer, images: ImageSet) -> Iterator[Taken]:
    """For each step from the trainer's own to its last this rank's images and classes, with progress on rank 0. A batch
    depends on (seed, global step) alone."""
    recipe, ranks = trainer.recipe, trainer.ranks
    batches = images.batches(trainer.global_step, trainer.previous_steps + recipe.steps, recipe.batch, trainer.seed,
                             (ranks.rank, ranks.world_size))
    return progress(batches, "fine-tuning", recipe.steps, done=trainer.step) if ranks.is_rank0 else batches
