"""The mathematics of the diffusion process, in closed form."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.diffusion.pixels import from_uint8, to_uint8
from diffprune.diffusion.process import (
    add_noise,
    antithetic_timesteps,
    ddim,
    ddim_step,
    quad_timesteps,
    uniform_timesteps,
)
from diffprune.diffusion.randomness import Noise, generator, noise_for

ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)


def test_quad_timesteps_are_the_published_list() -> None:
    steps = quad_timesteps(100, 1000)
    assert steps[:10] == [0, 0, 0, 0, 1, 2, 2, 3, 5, 6]
    assert steps[-5:] == [736, 752, 768, 783, 800]
    assert len(steps) == 100
    assert len(set(steps)) == 96


def test_uniform_timesteps_are_the_published_list() -> None:
    assert uniform_timesteps(100, 1000) == list(range(0, 1000, 10))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 999, 1000])
def test_both_spacings_give_exactly_the_steps_asked_in_range(steps: int) -> None:
    for spacing in (uniform_timesteps, quad_timesteps):
        timesteps = spacing(steps, 1000)
        assert len(timesteps) == steps
        assert timesteps == sorted(timesteps)
        assert timesteps[0] == 0
        assert timesteps[-1] < 1000


def test_alpha_bar_is_the_cumulative_product_of_one_minus_a_linear_beta() -> None:
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000)
    log_alpha_bar = sum(math.log(1 - (1e-4 + (0.02 - 1e-4) * t / 999)) for t in range(1000))
    assert float(scheduler.alphas_cumprod[0]) == pytest.approx(1 - 1e-4)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(math.exp(log_alpha_bar), rel=1e-4)


def test_noise_of_an_image_depends_on_its_index_and_the_seed_alone() -> None:
    together = noise_for(range(6), (1, 4, 4), seed=3)
    assert torch.equal(together[4:], noise_for([4, 5], (1, 4, 4), seed=3))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, noise_for(range(6), (1, 4, 4), seed=4))


def test_noise_is_standard_normal() -> None:
    draws = noise_for(range(2000), (16,), seed=0)
    assert float(draws.mean()) == pytest.approx(0, abs=0.02)
    assert float(draws.std()) == pytest.approx(1, abs=0.02)
    assert abs(float(torch.corrcoef(draws[:2])[0, 1])) < 0.8


def test_streams_of_different_keys_differ() -> None:
    first = {tuple(torch.randint(2**60, (2,), generator=generator(*keys)).tolist())
             for keys in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**31, 5), (5, 2**31)]}
    assert len(first) == 8


def test_antithetic_timesteps_mirror_each_other() -> None:
    t = antithetic_timesteps(128, 1000, generator(0))
    assert len(t) == 128
    assert torch.equal(t[65:], 999 - t[:63])
    assert len(antithetic_timesteps(7, 1000, generator(0))) == 7
    assert int(t.min()) >= 0
    assert int(t.max()) <= 999


def test_a_perfect_denoiser_recovers_the_image_in_any_number_of_steps() -> None:
    x_0, eps = torch.rand(2, 1, 4, 4) * 2 - 1, torch.randn(2, 1, 4, 4)
    for timesteps in (uniform_timesteps(10, 1000), quad_timesteps(10, 1000), [999]):
        x_T = add_noise(x_0, eps, ALPHA_BAR[timesteps[-1]].repeat(2))
        torch.testing.assert_close(ddim(lambda x, t: eps, x_T, timesteps, ALPHA_BAR), x_0, rtol=1e-3, atol=1e-3)


def test_ddim_step_equals_diffusers_where_both_are_defined() -> None:
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    x, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    theirs = scheduler.step(eps, 500, x, eta=0.7, variance_noise=torch.ones_like(x)).prev_sample
    bar = scheduler.alphas_cumprod
    torch.testing.assert_close(ddim_step(x, eps, bar[500], bar[400], 0.7, torch.ones_like(x)), theirs)


def test_stochastic_sampling_draws_per_image() -> None:
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.1 * x

    def sample(indices: range) -> torch.Tensor:
        noise = Noise(indices, seed=0)
        return ddim(denoise, noise.draw((1, 4, 4)), [0, 100, 200], ALPHA_BAR, eta=1.0, noise=noise)

    assert torch.equal(sample(range(4))[2:], sample(range(2, 4)))
    assert not torch.equal(sample(range(1)), ddim(denoise, noise_for([0], (1, 4, 4), 0), [0, 100, 200], ALPHA_BAR))


def test_clipping_bounds_the_predicted_image() -> None:
    x, eps, bar = torch.full((1, 1, 1, 1), 9.0), torch.zeros(1, 1, 1, 1), torch.tensor(0.5)
    assert float(ddim_step(x, eps, bar, torch.tensor(1.0), clip=True)) == 1.0
    assert float(ddim_step(x, eps, bar, torch.tensor(1.0))) > 9


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)).view(-1), levels.view(-1))
    assert to_uint8(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]
