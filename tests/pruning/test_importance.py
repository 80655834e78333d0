"""The scoring pass and the importance terms that it is reduced to."""

from typing import ClassVar

import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.criteria import TERMS, Criterion, DiffPruning, Magnitude, reduce_term
from diffprune.pruning.gradients import CalibrationBatch, ScoringPass
from diffprune.pruning.importance import score
from diffprune.pruning.timesteps import Largest, Threshold, timesteps_kept
from diffprune.runtime.errors import UserError
from diffprune.runtime.memory import peak_resident, reset_peak
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler(num_train_timesteps=40, beta_start=1e-4, beta_end=0.3))


@pytest.fixture
def batch() -> CalibrationBatch:
    rng = torch.Generator().manual_seed(1)
    return CalibrationBatch(torch.rand(6, 1, 8, 8, generator=rng) * 2 - 1, torch.randn(6, 1, 8, 8, generator=rng))


def plain_pass(model: DiffusionModel, x_0: torch.Tensor, eps: torch.Tensor, threshold: float) -> tuple[list[float], int]:
    """One timestep after the other, as PAPER words it; gradients end up in `.grad`."""
    model.unet.zero_grad()
    losses: list[float] = []
    for t in range(model.process.timesteps):
        steps = torch.full((len(x_0),), t)
        error = model.predict(model.process.add_noise(x_0, eps, steps), steps) - eps
        loss = error.square().sum(dim=(1, 2, 3)).mean()
        losses.append(float(loss.detach()))
        if losses[-1] < threshold * max(losses):
            return losses, t
        loss.backward()
    return losses, len(losses)


@pytest.mark.parametrize("threshold", [0.0, 0.9, 0.97, 0.999])
def test_the_batched_pass_equals_the_plain_loop(model: DiffusionModel, batch: CalibrationBatch, threshold: float) -> None:
    result = score(model, DiffPruning(), batch, Threshold(threshold))
    assert all(p.grad is None for p in model.unet.parameters())
    losses, kept = plain_pass(model, batch.x_0, batch.eps, threshold)
    assert result.losses.kept == kept
    torch.testing.assert_close(torch.from_numpy(result.losses.loss[:len(losses)]), torch.tensor(losses))
    assert len(result.losses.loss) == 40
    for name, module in model.unet.named_modules():
        if name in result.terms["wg"] and module.weight.grad is not None:
            for term in ("wg", "wg2"):
                expected = reduce_term(TERMS[term], module.weight.detach(), module.weight.grad)
                torch.testing.assert_close(result.terms[term][name], expected, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_pass_at_its_timestep(model: DiffusionModel, batch: CalibrationBatch) -> None:
    family = type(model.family)

    class Failing(family):
        kinds = ()

        def predict(self, unet, x_t, t, condition):
            return super().predict(unet, x_t, t, condition) / (t != 33).view(-1, 1, 1, 1)
    model.family = Failing()
    for policy in (Threshold(0.05), Largest(4)):
        with pytest.raises(UserError, match="the loss at timestep 33 is NaN or infinite"):
            score(model, DiffPruning(), batch, policy)


def test_gradients_that_are_not_finite_are_named(model: DiffusionModel, batch: CalibrationBatch) -> None:
    model.unet.conv_out.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"NaN or infinite numbers \(conv_out\): the importance"):
        score(model, DiffPruning(), batch)


def test_one_pass_serves_several_thresholds(model: DiffusionModel, batch: CalibrationBatch) -> None:
    together = []
    loss = ScoringPass(model, batch).run([Threshold(0.0), Threshold(0.97)], together.append)
    _, alone = ScoringPass(model, batch).sum(Threshold(0.97))
    assert [len(total.alpha) for total in together] == [timesteps_kept(loss, 0.97), 40]
    for layer, gradient in alone.gradients.items():
        torch.testing.assert_close(together[0].gradients[layer], gradient, rtol=1e-4, atol=1e-5)


def test_a_policy_may_need_all_losses_first(model: DiffusionModel, batch: CalibrationBatch) -> None:
    result = score(model, DiffPruning(), batch, Largest(3))
    assert result.losses.kept == 3
    assert sorted(result.losses.alpha.nonzero()[0]) == sorted(result.losses.loss.argsort()[-3:])


def test_a_criterion_may_bring_terms_of_its_own(model: DiffusionModel, batch: CalibrationBatch) -> None:
    class Cubic(Criterion):
        gradient = True
        terms: ClassVar = {"wg3": lambda w, g: (w * g).abs() ** 3}

        def score(self, slices: list, channels: int, rng: torch.Generator) -> torch.Tensor:
            return torch.stack([s.sum("wg3") for s in slices]).sum(0)

    terms = score(model, Cubic(), batch).terms
    wg = score(model, DiffPruning(), batch).terms["wg"]["time_embedding.linear_1"]
    torch.testing.assert_close(terms["wg3"]["time_embedding.linear_1"], wg.abs() ** 3)


def test_gradients_need_a_batch(model: DiffusionModel) -> None:
    with pytest.raises(ValueError, match="DiffPruning needs gradients"):
        score(model, DiffPruning())


def test_every_conv_linear_and_norm_layer_has_terms(model: DiffusionModel) -> None:
    terms = score(model, Magnitude()).terms["w2"]
    assert {name for name, m in model.unet.named_modules() if getattr(m, "weight", None) is not None} == set(terms)
    assert all(term.dim() <= 2 for term in terms.values())


@pytest.mark.slow
def test_scoring_holds_one_sum_of_gradients_beside_the_weights() -> None:
    """The activations are small here, and so are the terms, which have one number for each kernel."""
    model = DiffusionModel(tiny_unet((512, 1024), groups=32), DDIMScheduler(num_train_timesteps=3))
    size = sum(weight.numel() * 4 for weight in model.unet.parameters())
    assert size > 2e8
    reset_peak()
    before = peak_resident()
    score(model, DiffPruning(), CalibrationBatch.with_noise(torch.zeros(1, 1, 8, 8), 0), Threshold(0.0))
    assert peak_resident() - before < 1.6 * size
