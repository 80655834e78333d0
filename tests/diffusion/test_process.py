"""The mathematics of the diffusion process, in closed form."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from diffprune.diffusion.pixels import from_uint8, to_uint8
from diffprune.diffusion.process import (
    Process,
    antithetic_timesteps,
    ddim,
    ddim_step,
    quad_timesteps,
    uniform_timesteps,
)
from diffprune.diffusion.randomness import Noise, generator, noise_for
from diffprune.models.noise_schedule import process_of

ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
DDPM = Process.ddpm(ALPHA_BAR)
PROCESSES = {prediction: Process.ddpm(ALPHA_BAR, prediction) for prediction in ("epsilon", "v_prediction", "sample")} | {
    "flow": process_of(FlowMatchEulerDiscreteScheduler(shift=3.0)), "edm": process_of(EDMEulerScheduler()),
    "edm, opposite sign": process_of(EDMEulerScheduler(prediction_type="v_prediction"))}


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


@pytest.mark.parametrize("name", PROCESSES)
def test_signal_and_noise_are_told_apart_by_what_the_network_should_predict(name: str) -> None:
    process, t = PROCESSES[name], torch.tensor([0, 300, 700, 998])
    x_0, eps = torch.rand(4, 1, 4, 4, dtype=torch.double) * 2 - 1, torch.randn(4, 1, 4, 4, dtype=torch.double)
    found = process.split(process.target(x_0, eps, t), process.add_noise(x_0, eps, t), t)
    torch.testing.assert_close(found, (x_0, eps), rtol=2e-5, atol=2e-5)      # float32's alpha_bar


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_predictor_recovers_the_image_in_any_number_of_steps(name: str) -> None:
    x_0, eps, process = torch.rand(2, 1, 4, 4) * 2 - 1, torch.randn(2, 1, 4, 4), PROCESSES[name]
    for timesteps in (uniform_timesteps(10, 1000), quad_timesteps(10, 1000), [999]):
        start = process.add_noise(x_0, eps, torch.tensor(timesteps[-1:] * 2)) / process.noise[timesteps[-1]].clamp(min=1)
        drawn = ddim(lambda x, t: process.target(x_0, eps, t), start, timesteps, process)
        torch.testing.assert_close(drawn, x_0, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_min_snr_weighs_the_error_of_the_image_by_the_snr_up_to_gamma(name: str) -> None:
    process, t = PROCESSES[name], torch.tensor([10, 300, 700, 990])
    x_t, error = torch.randn(4, 1, 2, 2, dtype=torch.double), 0.1 * torch.randn(4, 1, 2, 2, dtype=torch.double)
    of_x_0 = process.split(error, x_t, t)[0] - process.split(0 * error, x_t, t)[0]
    snr = (process.signal[t] / process.noise[t]).square()
    weighted = process.min_snr(t, 5.0) * error.square().flatten(1).sum(1)
    torch.testing.assert_close(weighted, snr.clamp(max=5) * of_x_0.square().flatten(1).sum(1), rtol=1e-4, atol=1e-9)
    assert process.min_snr(t, None) == 1


def test_the_weight_of_a_noise_prediction_is_the_published_one() -> None:
    process = Process.ddpm(torch.tensor([0.9, 0.5, 0.1]))       # SNR 9, 1, 1/9
    torch.testing.assert_close(process.min_snr(torch.arange(3), 5), torch.tensor([5 / 9, 1, 1]))
    torch.testing.assert_close(process.min_snr(torch.arange(3), 0.5), torch.tensor([0.5 / 9, 0.5, 1]))


def test_what_is_noised_and_predicted_is_what_diffusers_has() -> None:
    x_0, eps, t = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([0, 500, 999])
    ddpm = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    process = process_of(ddpm)
    torch.testing.assert_close(process.add_noise(x_0, eps, t), ddpm.add_noise(x_0, eps, t))
    torch.testing.assert_close(process.target(x_0, eps, t), ddpm.get_velocity(x_0, eps, t))
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    process = process_of(flow)
    times = flow.timesteps.flip(0)[t]
    torch.testing.assert_close(process.add_noise(x_0, eps, t), flow.scale_noise(x_0, times, eps))
    torch.testing.assert_close(process.inputs(x_0, t)[1], times)
    for prediction in ("epsilon", "v_prediction"):
        edm = EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7)
        process, sigma = process_of(edm), edm.sigmas[:1000].flip(0)[t].view(-1, 1, 1, 1)
        x_t = process.add_noise(x_0, eps, t)
        torch.testing.assert_close(process.inputs(x_t, t), (edm.precondition_inputs(x_t, sigma),
                                                            edm.precondition_noise(sigma).flatten()))
        torch.testing.assert_close(edm.precondition_outputs(x_t, process.target(x_0, eps, t), sigma), x_0,
                                   rtol=1e-3, atol=1e-3)


def test_ddim_step_equals_diffusers_where_both_are_defined() -> None:
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction)
        scheduler.set_timesteps(10)
        x, predicted, process = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), process_of(scheduler)
        theirs = scheduler.step(predicted, 500, x, eta=0.7, variance_noise=torch.ones_like(x)).prev_sample
        ours = ddim_step(*process.split(predicted, x, torch.tensor([500, 500])), process.scales(500, x),
                         process.scales(400, x), 0.7, torch.ones_like(x))
        torch.testing.assert_close(ours, theirs)


def test_stochastic_sampling_draws_per_image() -> None:
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.1 * x

    def sample(indices: range) -> torch.Tensor:
        noise = Noise(indices, seed=0)
        return ddim(denoise, noise.draw((1, 4, 4)), [0, 100, 200], DDPM, eta=1.0, noise=noise)

    assert torch.equal(sample(range(4))[2:], sample(range(2, 4)))
    assert not torch.equal(sample(range(1)), ddim(denoise, noise_for([0], (1, 4, 4), 0), [0, 100, 200], DDPM))


def test_clipping_bounds_the_predicted_image() -> None:
    noise = 9 * torch.ones(1, 1, 2, 2)
    drawn = [ddim(lambda x, t: 0 * x, noise, [500], DDPM, clip=clip) for clip in (True, False)]
    assert float(drawn[0].max()) == 1.0
    assert float(drawn[1].min()) > 9


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)).view(-1), levels.view(-1))
    assert to_uint8(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]
