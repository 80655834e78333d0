"""Training: one step's mathematics, and results that do not depend on how a batch is split."""

import os
import signal
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn import functional as F

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import Ranks
from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import Interrupt, Interrupted
from diffprune.training.losses import Noised, Objective
from diffprune.training.recipe import Recipe
from diffprune.training.trainer import Trainer, check_batch, draw
from tests.conftest import tiny_unet

X_0 = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
RECIPE = Recipe(steps=6, batch=8, ema=0.5, dropout=0.1)
BF16 = Execution(precision="bf16")


def training(execution: Execution | None = None, seed: int = 0, **options: Any) -> Trainer:
    """The training of a tiny model with some of the recipe's options changed."""
    return Trainer(DiffusionModel(tiny_unet(seed=seed), DDIMScheduler()), replace(RECIPE, **options), execution)


def advance(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.advance(X_0, None)


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_step_needs_a_model_and_a_recipe_and_no_configuration() -> None:
    begun = Trainer(DiffusionModel(tiny_unet(), DDIMScheduler()), Recipe(steps=1, batch=8))
    advance(begun, 1)
    assert begun.step == 1
    assert begun.mean_loss() > 0


def test_the_loss_is_summed_over_pixels_and_averaged_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = training()
    begun.masks.begin(0, 0, 8, slice(0, 8))
    losses = begun.objective(begun.student, Noised(X_0, X_0, torch.zeros(8, dtype=torch.long), begun.process))
    monkeypatch.setattr(Objective, "__call__", lambda *_: losses)
    begun.advance(X_0, None)
    assert begun.mean_loss() == pytest.approx(float(losses.detach().mean()))
    assert losses.shape == (8,)


def test_a_step_draws_the_same_whatever_came_before() -> None:
    t, eps = draw(0, 3, 8, (1, 8, 8), 1000)
    torch.manual_seed(1234)
    again_t, again_eps = draw(0, 3, 8, (1, 8, 8), 1000)
    assert torch.equal(t, again_t)
    assert torch.equal(eps, again_eps)
    for other in ((0, 4), (1, 3)):
        assert not torch.equal(eps, draw(*other, 8, (1, 8, 8), 1000)[1])


@pytest.mark.parametrize(("size", "accumulate"), [(3, 1), (1, 3), (2, 2)])
def test_processes_and_micro_batches_see_the_draws_of_the_whole_batch(size: int, accumulate: int) -> None:
    """Images, timesteps, noise and dropout, bit for bit; the ranks' numbers of images need not be equal."""
    whole, split = training(dropout=0.3), training(dropout=0.3, accumulate=accumulate)

    def seen(begun: Trainer, rank: int, images: torch.Tensor) -> list[torch.Tensor]:
        passed = [(n.x_0, n.eps, n.t, begun.masks.draw(n.x_0, 0.3)) for n, _ in begun.micro_batches(images, None)]
        return [torch.cat(column) for column in zip(*passed, strict=True)]

    of_ranks = []
    for rank in range(size):
        split.ranks = Ranks(rank, size)
        of_ranks.append(seen(split, rank, X_0[rank * 8 // size:(rank + 1) * 8 // size]))
    assert same([torch.cat(column) for column in zip(*of_ranks, strict=True)], seen(whole, 0, X_0))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate: int) -> None:
    """Up to the order of float additions: gradients of about 10, whose last bit is 1e-6."""
    whole, split = training(clip=None), training(clip=None, accumulate=accumulate)
    for begun in (whole, split):
        advance(begun, 1)
    for a, b in zip(whole.weights, split.weights, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    assert split.mean_loss() == pytest.approx(whole.mean_loss(), rel=1e-6)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.batch=8 is too small for 3 processes with schedule.accumulate=4"):
        check_batch(replace(RECIPE, accumulate=4), 3)
    check_batch(replace(RECIPE, accumulate=4), 2)


def test_gradients_are_clipped_to_the_total_norm() -> None:
    begun = training(clip=1e-3)
    advance(begun, 1)
    norm = torch.cat([p.grad.flatten() for p in begun.weights]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_average_starts_at_the_pruned_weights_and_follows_the_recursion() -> None:
    begun = training()
    expected = [p.detach().clone() for p in begun.weights]
    for _ in range(3):
        advance(begun, 1)
        expected = [0.5 * e + 0.5 * p.detach() for e, p in zip(expected, begun.weights, strict=True)]
    for average, e in zip(begun.ema, expected, strict=True):
        torch.testing.assert_close(average, e)


def test_an_average_longer_than_the_training_is_said_and_ends_near_the_trained_weights(
        caplog: pytest.LogCaptureFixture) -> None:
    begun = training(ema=0.9999)
    assert "schedule.ema=0.9999 over 6 steps would leave 100 % of the pruned weights in the average" in caplog.text
    first = [p.detach().clone() for p in begun.weights]
    advance(begun, 6)
    for average, start, p in zip(begun.ema, first, begun.weights, strict=True):
        assert (average - p).norm() < (average - start).norm()


def test_a_request_leaves_the_backward_pass_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one call for Python: what comes meanwhile waits for its end, unless something in it lets Python listen."""
    begun = Trainer(DiffusionModel(tiny_unet((32, 64), layers=3), DDIMScheduler()), replace(RECIPE, batch=256))
    loss, left = Objective.__call__, threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def watched(*given: object) -> torch.Tensor:
        per_image = loss(*given)
        per_image.register_hook(lambda gradient: left.start())      # the backward pass begins
        return per_image
    monkeypatch.setattr(Objective, "__call__", watched)
    with pytest.raises(Interrupted), Interrupt():
        begun.gradients(X_0.repeat(32, 1, 1, 1), None)
    assert any(p.grad is None for p in begun.weights)


@pytest.mark.parametrize("execution", [Execution(), BF16], ids=lambda execution: execution.precision)
def test_a_restored_state_goes_on_bit_for_bit(execution: Execution) -> None:     # every other recipe: test_finetune
    begun = training(execution)
    advance(begun, 3)
    kept = [{name: tensor.clone() for name, tensor in begun.state()[0].items()}, begun.state()[1]]
    advance(begun, 3)
    resumed = training(execution, seed=9)
    resumed.restore(*kept)
    assert resumed.step == 3
    advance(resumed, 3)
    assert same(begun.weights, resumed.weights)
    assert same(begun.ema, resumed.ema)


def test_swapping_twice_changes_nothing() -> None:
    begun = training()
    advance(begun, 2)
    before = begun.weights[0].detach().clone()
    begun.swap()
    assert not torch.equal(begun.weights[0], before)
    begun.swap()
    assert torch.equal(begun.weights[0], before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_found_later_too_with_its_step(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, loss = training(), Objective.__call__
    monkeypatch.setattr(Objective, "__call__", lambda *given: loss(*given) * (value if begun.step == 2 else 1))
    advance(begun, 2)
    begun.check()
    advance(begun, 3)
    with pytest.raises(UserError, match="at step 2"):
        begun.check()


@pytest.mark.parametrize("kind", ["weight", "ema", "optimiser"])
def test_what_is_not_finite_is_never_kept(kind: str) -> None:
    begun = training()
    advance(begun, 1)
    bad = next(tensor for name, tensor in begun.tensors().items() if name.startswith(kind) and tensor.dim() > 1)
    with torch.no_grad():
        bad.view(-1)[0] = float("nan")
    with pytest.raises(UserError, match="at step 0"):
        begun.state()


def test_bf16_computes_in_half_precision_and_keeps_full_precision() -> None:
    begun, kinds = training(BF16), []
    begun.model.unet.conv_in.register_forward_hook(lambda module, given, output: kinds.append(output.dtype))
    advance(begun, 1)
    assert kinds == [torch.bfloat16]
    assert {p.dtype for p in begun.weights} == {torch.float32}
    assert begun.last_loss.dtype == torch.float32


def test_channels_last_is_a_matter_of_memory_alone() -> None:
    """The losses agree to the last bits; the draws of dropout lie in memory order, so there is none here."""
    plain, other = training(dropout=0.0), training(dropout=0.0)
    other.model.unet.to(memory_format=torch.channels_last)
    for begun in (plain, other):
        advance(begun, 1)
    assert plain.mean_loss() == pytest.approx(other.mean_loss(), rel=1e-5)
    assert F.mse_loss(plain.weights[0], other.weights[0]) < 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_no_step_on_a_gpu_waits_for_the_device(precision: str) -> None:
    begun = training(Execution(torch.device("cuda"), precision), accumulate=2)
    advance(begun, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        advance(begun, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    begun.check()
    kept = begun.state()
    begun.restore(*kept)
    advance(begun, 1)
    assert begun.step == 6
    assert begun.mean_loss() > 0
