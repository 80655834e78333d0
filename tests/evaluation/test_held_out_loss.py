"""The denoising loss on images that are not trained on."""

import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.data.loading.images import Images
from diffprune.diffusion.randomness import Stream, generator
from diffprune.evaluation.held_out_loss import NOISED, RANGES, held_out_loss, noised_timesteps
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from tests.conftest import tiny_unet

IMAGES = Images(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), False)


def model(seed: int = 0) -> DiffusionModel:
    return DiffusionModel(tiny_unet(seed=seed), DDIMScheduler())


def test_it_is_the_mean_squared_error_of_the_noise_in_each_range() -> None:
    count = RANGES * len(IMAGES)        # fewer than NOISED
    timesteps, ranges = noised_timesteps(1000, count)
    in_last = [place for place in range(count) if ranges[place] == RANGES - 1]
    assert min(timesteps[in_last]) == 939
    errors = []
    for place in in_last:
        x_0 = IMAGES.pixels[place % len(IMAGES)].float() / 127.5 - 1
        eps = torch.randn((1, 8, 8), generator=generator(0, Stream.HELD_OUT, place))
        alpha_bar = DDIMScheduler().alphas_cumprod[timesteps[place]]
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
        with torch.no_grad():
            errors.append(float((model().unet(x_t[None], timesteps[place]).sample - eps).square().sum()))
    assert len(errors) == len(IMAGES)
    assert held_out_loss(model(), IMAGES, 256)[-1] == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_every_range_has_as_many_timesteps() -> None:
    for total in (1000, 50, 4000):
        timesteps, ranges = noised_timesteps(total)
        assert 0 <= timesteps.min() <= total / NOISED
        assert total - 3 <= timesteps.max() < total
        assert torch.bincount(ranges).tolist() == [NOISED // RANGES] * RANGES
        assert ((timesteps * RANGES / total).floor() - ranges).abs().max() <= 1


def test_a_large_set_is_measured_on_a_fixed_number_of_noised_images() -> None:
    seen, dense = [], model()
    dense.unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    held_out_loss(dense, Images(IMAGES.pixels.repeat(4, 1, 1, 1), False), 512)
    assert seen == [512, 512] == [NOISED // 2] * 2


def test_it_does_not_depend_on_the_batch_or_on_the_mode() -> None:
    dense = model()
    whole = held_out_loss(dense, IMAGES, 512)
    dense.unet.train()
    assert held_out_loss(dense, IMAGES, 100) == pytest.approx(whole, rel=1e-6)
    assert dense.unet.training


def test_a_model_that_was_saved_has_the_same_and_another_model_another(tmp_path) -> None:
    dense = model()
    save_model(dense, tmp_path / "model")
    losses = held_out_loss(dense, IMAGES, 256)
    assert held_out_loss(load_model(tmp_path / "model"), IMAGES, 256) == losses
    assert held_out_loss(model(1), IMAGES, 256) != losses
