"""`diffprune.finetune` on a model that one already holds."""

import copy

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

import diffprune
from diffprune.data.loading.images import Images
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.training.losses import AttentionMaps, NoisePrediction, OutputDistillation
from diffprune.training.recipe import Recipe
from diffprune.training.trainer import Trainer
from tests.api.test_pruning import callers_state, held_by_a_caller
from tests.conftest import tiny_unet

SCHEDULER = DDIMScheduler(num_train_timesteps=10)
PIXELS = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = PIXELS / 127.5 - 1


def test_the_library_trains_as_a_run_does() -> None:
    unet, recipe = tiny_unet(), Recipe(3, batch=4, dropout=0.1)
    trainer = Trainer(DiffusionModel(copy.deepcopy(unet), SCHEDULER), recipe, seed=5)
    for batch, labels in Images(PIXELS, flip=False).batches(0, 3, 4, seed=5):
        trainer.advance(batch, labels)
    trainer.swap()
    report = diffprune.finetune(unet, IMAGES, scheduler=SCHEDULER, recipe=recipe, seed=5)
    expected = trainer.model.unet.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in unet.state_dict().items())
    assert (report.steps, report.loss) == (3, trainer.mean_loss())


def test_a_pruned_pipeline_is_healed_towards_the_dense_one() -> None:
    dense = DDIMPipeline(tiny_unet(), SCHEDULER)
    pruned = DDIMPipeline(copy.deepcopy(dense.unet), SCHEDULER)
    report = diffprune.prune(pruned, 0.5, "magnitude")
    before, own = copy.deepcopy(dense.unet.state_dict()), copy.deepcopy(pruned.unet.state_dict())
    recipe = Recipe(2, batch=4, objective={NoisePrediction: 0.3, OutputDistillation: 0.7, AttentionMaps: 1.0})
    diffprune.finetune(pruned, IMAGES, recipe=recipe, teacher=dense, report=report)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.unet.state_dict().items())
    assert all(weight.requires_grad for weight in dense.unet.parameters())
    assert any(not torch.equal(tensor, own[name]) for name, tensor in pruned.unet.state_dict().items())


def test_the_callers_state_is_as_before() -> None:
    unet = held_by_a_caller()
    before, gradient, weight = callers_state(unet), unet.conv_out.weight.grad, unet.conv_out.weight
    diffprune.finetune(unet, IMAGES, 1, SCHEDULER)
    assert callers_state(unet) == before
    assert unet.conv_out.weight is weight
    assert unet.conv_out.weight.grad is gradient


def test_after_an_error_the_model_is_as_before() -> None:
    unet = held_by_a_caller()
    before, weights = callers_state(unet), copy.deepcopy(unet.state_dict())
    with pytest.raises(ValueError, match="NaN or infinite at step"):
        diffprune.finetune(unet, IMAGES, scheduler=SCHEDULER, recipe=Recipe(5, batch=4, lr=1e30, clip=None))
    assert callers_state(unet) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(("options", "message"), [
    ({}, "either a number of steps or a recipe"), ({"steps": 1, "recipe": Recipe(1)}, "either a number"),
    ({"steps": 0}, "steps=0 trains nothing"), ({"steps": 1, "data": IMAGES[:, :, :4]}, r"shape \(1, 8, 8\)"),
    ({"steps": 1, "teacher": tiny_unet()}, "learns from no teacher"),
    ({"recipe": Recipe(1, objective={OutputDistillation: 1.0})}, "OutputDistillation learns from the dense model"),
    ({"recipe": Recipe(1, objective={AttentionMaps: 1.0}), "teacher": tiny_unet()}, "give the report")])
def test_arguments_are_checked_before_the_first_step(options: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "advance", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=message):
        diffprune.finetune(tiny_unet(), **{"data": IMAGES, "scheduler": SCHEDULER} | options)


def test_what_is_returned_is_shown_in_a_line() -> None:
    assert len(repr(diffprune.finetune(tiny_unet(), IMAGES, 1, SCHEDULER))) < 100
