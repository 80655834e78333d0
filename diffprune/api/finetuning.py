"""`diffprune.finetune`: training a model that one already holds, most often to heal what pruning has cost."""

import copy
import time
from dataclasses import dataclass, replace

import torch

from diffprune.api.held import Held, left_as_found, mistakes_as_value_errors, model_of
from diffprune.api.images import Data, image_set
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.prune_report import PruneReport
from diffprune.runtime.errors import UserError
from diffprune.training.block_outputs import kept_outputs
from diffprune.training.recipe import Recipe
from diffprune.training.steps import remaining_batches
from diffprune.training.trainer import Trainer


@dataclass(frozen=True)
class FinetuneReport:
    """The `steps` that were taken, the `loss` of the last one and the wall-clock `seconds`."""
    steps: int
    loss: float
    seconds: float


def finetune(held: Held, data: Data, steps: int | None = None, scheduler: object = None, *, recipe: Recipe | None = None,
             teacher: Held | None = None, report: PruneReport | None = None, execution: Execution | None = None,
             seed: int = 0) -> FinetuneReport:
    """Trains all weights of a pipeline's denoiser, or of a UNet, and gives it the average of the weights over the steps.

    `steps` are of the default recipe; for other options give a `recipe`, which contains them, instead. `data` is as
    `diffprune.prune` takes it: the images of a batch are all that is trained on, each once an epoch. A network without its
    pipeline takes the noise `scheduler` too. Where the recipe's objective learns from the dense model that is the `teacher`,
    and where it compares blocks the `report` of the pruning says which channels are left.

    The training goes on in a copy, whose weights are taken over at the end: after an error the model is that of before. Its
    modes, requires_grad and gradients and the random state stay in any case. Raises ValueError, before the first step, for
    an argument that is missing or out of range, and where a loss or a weight becomes NaN or infinite.
    """
    start = time.monotonic()
    with mistakes_as_value_errors():
        recipe = recipe_of(steps, recipe)
        model, dense = model_of(held, scheduler), None if teacher is None else model_of(teacher, scheduler)
        images = image_set(data, model.image_shape)
        model.check_classes(images.labels, images.class_count)
        check_teacher(recipe, dense, report)
        kept = kept_outputs(dense.unet, report.kept) if dense and report and needs_blocks(recipe) else None
        with left_as_found(model), left_as_found(dense or model):
            student = replace(model, unet=copy.deepcopy(model.unet).requires_grad_(True))
            trainer = Trainer(student, recipe, execution, seed, teacher=dense, kept=kept)
            for batch, labels in remaining_batches(trainer, images.to(trainer.device)):
                trainer.advance(batch, labels)
                if trainer.device.type == "cpu":    # reading the loss would make the host wait for a GPU
                    trainer.check()
            trainer.check_state()
            trainer.swap()
            with torch.no_grad():
                for own, trained in zip(model.unet.parameters(), student.unet.parameters(), strict=True):
                    own.copy_(trained)
        return FinetuneReport(trainer.step, trainer.mean_loss(), round(time.monotonic() - start, 3))


def recipe_of(steps: int | None, recipe: Recipe | None) -> Recipe:
    """The recipe that both say; UserError where they do not, or where nothing would be trained."""
    if (steps is None) == (recipe is None):
        raise UserError("give either a number of steps or a recipe")
    recipe = recipe or Recipe(steps or 0)
    if recipe.steps < 1:
        raise UserError(f"steps={recipe.steps} trains nothing: give at least 1")
    return recipe


def needs_blocks(recipe: Recipe) -> bool:
    return any(term.needs_blocks for term in recipe.objective)


def check_teacher(recipe: Recipe, teacher: DiffusionModel | None, report: PruneReport | None) -> None:
    """UserError where the objective learns from a dense model and there is none, or the other way round."""
    learns = [term.__name__ for term in recipe.objective if term.needs_teacher]
    if learns and teacher is None:
        raise UserError(f"{learns[0]} learns from the dense model: give it as the teacher")
    if teacher is not None and not learns:
        raise UserError("the recipe's objective learns from no teacher: leave it out, or give a recipe that has such a term "
                        "(Recipe(steps, objective={NoisePrediction: .3, OutputDistillation: .7}))")
    if needs_blocks(recipe) and report is None:
        raise UserError("the recipe's objective compares blocks: give the report that diffprune.prune has returned")
