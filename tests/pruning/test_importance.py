"""The walk over timesteps and the terms it ends in."""

import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.diffusion.process import add_noise
from diffprune.models.model_folder import DiffusionModel
from diffprune.pruning.criteria import reduce_term
from diffprune.pruning.importance import layer_terms, walk
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler(num_train_timesteps=40, beta_start=1e-4, beta_end=0.3))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(6, 1, 8, 8, generator=rng) * 2 - 1, torch.randn(6, 1, 8, 8, generator=rng)


def plain_walk(model: DiffusionModel, x_0: torch.Tensor, eps: torch.Tensor, threshold: float) -> tuple[list[float], int]:
    """One timestep after the other, as PAPER words it; gradients end up in `.grad`."""
    model.unet.zero_grad()
    losses: list[float] = []
    for t in range(len(model.alpha_bar)):
        steps = torch.full((len(x_0),), t)
        error = model.denoise(add_noise(x_0, eps, model.alpha_bar[steps]), steps) - eps
        loss = error.square().sum(dim=(1, 2, 3)).mean()
        losses.append(float(loss.detach()))
        if losses[-1] < threshold * max(losses):
            return losses, t
        loss.backward()
    return losses, len(losses)


@pytest.mark.parametrize("threshold", [0.0, 0.9, 0.97, 0.999])
def test_the_batched_walk_equals_the_plain_loop(model: DiffusionModel, batch: tuple, threshold: float) -> None:
    result = walk(model, *batch, [threshold])
    losses, kept = plain_walk(model, *batch, threshold)
    assert result.kept[threshold] == kept
    torch.testing.assert_close(result.loss[:len(losses)], torch.tensor(losses))
    assert len(result.loss) == 40
    for name, module in model.unet.named_modules():
        if name in result.terms[threshold]["wg"] and module.weight.grad is not None:
            for term in ("wg", "wg2"):
                expected = reduce_term(term, module.weight.detach(), module.weight.grad)
                torch.testing.assert_close(result.terms[threshold][term][name], expected, rtol=1e-3, atol=1e-4)


def test_one_walk_serves_several_thresholds(model: DiffusionModel, batch: tuple) -> None:
    together = walk(model, *batch, [0.0, 0.97])
    alone = walk(model, *batch, [0.97])
    assert together.kept == {0.0: 40, 0.97: alone.kept[0.97]}
    for layer, term in alone.terms[0.97]["wg"].items():
        torch.testing.assert_close(together.terms[0.97]["wg"][layer], term, rtol=1e-4, atol=1e-5)


def test_every_conv_linear_and_norm_layer_has_terms(model: DiffusionModel) -> None:
    terms = layer_terms(model.unet, ["w2"])["w2"]
    assert {name for name, m in model.unet.named_modules() if getattr(m, "weight", None) is not None} == set(terms)
    assert all(term.dim() <= 2 for term in terms.values())
