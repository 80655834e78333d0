"""Healing: one step's mathematics, the average, and a state that goes on bit for bit."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.resnet import ResnetBlock2D

from diffprune.checkpoint import DiffusionModel
from diffprune.errors import UserError
from diffprune.training import Training, finite, noise_prediction_loss, set_dropout, update
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


X_0 = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
RECIPE = ("schedule.steps=6", "schedule.batch=8", "schedule.ema=0.9")


def advance(model: DiffusionModel, training: Training, cfg, steps: range) -> None:
    model.unet.train()
    for step in steps:
        update(training, noise_prediction_loss(model, X_0, cfg.seed, step), cfg.schedule)
        training.step = step + 1


def test_the_loss_is_summed_over_pixels_and_averaged_over_the_batch(model: DiffusionModel) -> None:
    model.denoise = lambda x_t, t, context: torch.zeros_like(x_t)
    loss = float(noise_prediction_loss(model, X_0.repeat(64, 1, 1, 1), 0, 0))
    assert loss == pytest.approx(64, rel=0.05)      # the expected squared norm of 64 unit normals


def test_a_step_draws_the_same_whatever_came_before(model: DiffusionModel) -> None:
    set_dropout(model.unet, 0.5)
    model.unet.train()
    first = noise_prediction_loss(model, X_0, 0, 3)
    torch.manual_seed(1234)
    assert torch.equal(first, noise_prediction_loss(model, X_0, 0, 3))
    assert not torch.equal(first, noise_prediction_loss(model, X_0, 0, 4))
    assert not torch.equal(first, noise_prediction_loss(model, X_0, 1, 3))


def test_the_average_starts_at_the_pruned_weights_and_follows_the_recursion(model: DiffusionModel, config) -> None:
    cfg = config(*RECIPE)
    training = Training.of(model.unet, cfg)
    expected = [p.detach().clone() for p in model.unet.parameters()]
    for step in range(3):
        advance(model, training, cfg, range(step, step + 1))
        expected = [0.9 * e + 0.1 * p.detach() for e, p in zip(expected, model.unet.parameters(), strict=True)]
    for average, e in zip(training.ema, expected, strict=True):
        torch.testing.assert_close(average, e)


def test_gradients_are_clipped_to_the_total_norm(model: DiffusionModel, config) -> None:
    cfg = config(*RECIPE, "schedule.clip=1e-3")
    training = Training.of(model.unet, cfg)
    update(training, noise_prediction_loss(model, X_0, 0, 0), cfg.schedule)
    norm = torch.cat([p.grad.flatten() for p in model.unet.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_restored_state_goes_on_bit_for_bit(model: DiffusionModel, config, tmp_path: Path) -> None:
    cfg = config(*RECIPE)
    set_dropout(model.unet, 0.1)
    training = Training.of(model.unet, cfg)
    advance(model, training, cfg, range(3))
    training.save(tmp_path / "state.safetensors")
    advance(model, training, cfg, range(3, 6))

    other = DiffusionModel(tiny_unet(seed=9), DDIMScheduler())
    set_dropout(other.unet, 0.1)
    resumed = Training.of(other.unet, cfg)
    resumed.restore(tmp_path / "state.safetensors")
    assert resumed.step == 3
    advance(other, resumed, cfg, range(3, 6))
    for a, b in zip(model.unet.parameters(), other.unet.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(training.ema, resumed.ema, strict=True):
        assert torch.equal(a, b)


def test_swapping_twice_changes_nothing(model: DiffusionModel, config) -> None:
    cfg = config(*RECIPE)
    training = Training.of(model.unet, cfg)
    advance(model, training, cfg, range(2))
    before = model.unet.conv_in.weight.detach().clone()
    training.swap()
    assert not torch.equal(model.unet.conv_in.weight, before)
    training.swap()
    assert torch.equal(model.unet.conv_in.weight, before)


def test_dropout_acts_in_the_residual_blocks_alone(model: DiffusionModel) -> None:
    set_dropout(model.unet, 0.1)
    inside = [m.dropout for m in model.unet.modules() if isinstance(m, ResnetBlock2D)]
    assert {m.p for m in inside} == {0.1}
    others = [m for m in model.unet.modules() if isinstance(m, torch.nn.Dropout) and m not in inside]
    assert all(m.p == 0 for m in others)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_at_its_step(value: float) -> None:
    with pytest.raises(UserError, match="at step 17"):
        finite(torch.tensor(value), 17)
