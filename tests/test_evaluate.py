"""Scores of images: exact where the answer is known, refusing where they lack something."""

import numpy as np
import pytest
import torch
from pytorch_msssim import ssim

from diffprune.errors import UserError
from diffprune.features import load_extractor
from diffprune.frechet import frechet_distance
from diffprune.run import Run
from diffprune.stages import evaluate


def pictures(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def test_equal_images_have_similarity_one(config) -> None:
    assert evaluate.mean_ssim(pictures(5), pictures(5), config("evaluate.batch=2")) == pytest.approx(1, abs=1e-6)


def test_similarity_is_the_mean_over_pairs_of_the_reference_implementation(config) -> None:
    a, b = pictures(7), pictures(7, seed=1)
    planes = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (a, b)]
    expected = float(ssim(*planes, data_range=1, win_size=7, size_average=True))
    assert evaluate.mean_ssim(a, b, config("evaluate.batch=3")) == pytest.approx(expected, abs=1e-6)


def test_similarity_pairs_by_index(config) -> None:
    a = pictures(4)
    assert evaluate.mean_ssim(a, a[::-1], config()) < 0.5


def test_reference_statistics_are_computed_once_and_the_data_is_at_distance_zero(config, monkeypatch) -> None:
    cfg, extractor = config(), load_extractor("digits-cnn", None)
    first, about = evaluate.reference_statistics(cfg, extractor)
    assert about["reference"] == "digits, 1797 images"
    monkeypatch.setattr(type(extractor), "of", lambda *_: pytest.fail("computed twice"))
    again, _ = evaluate.reference_statistics(cfg, extractor)
    assert frechet_distance(first, again) == pytest.approx(0, abs=1e-6 * np.trace(first.sigma))


def test_too_few_images_are_refused_with_both_counts(config, tmp_path) -> None:
    run = Run(tmp_path)
    run.samples.mkdir()
    np.save(run.images, pictures(3))
    with pytest.raises(UserError, match=r"holds 3 images, evaluate\.images asks for 1024"):
        evaluate.stored_images(config(), run)


def test_the_clock_alternates_between_the_models_and_reports_the_median(config, monkeypatch) -> None:
    from diffusers import DDIMScheduler

    from diffprune.checkpoint import DiffusionModel
    from tests.conftest import tiny_unet
    dense, final = tiny_unet(), tiny_unet((4, 8))
    order: list[str] = []

    def clock(unet: torch.nn.Module, batch: int) -> float:
        order.append("dense" if unet is dense else "final")
        return {"dense": 0.2, "final": 0.1}[order[-1]] * (50 if len(order) in (3, 4) else 1)

    monkeypatch.setattr(evaluate, "load_dense", lambda cfg: DiffusionModel(dense, DDIMScheduler()))
    monkeypatch.setattr(evaluate, "load_model", lambda folder: DiffusionModel(final, DDIMScheduler()))
    monkeypatch.setattr(evaluate, "evaluation_seconds", clock)
    cfg = config("sampler.steps=10")
    result = evaluate.speed(cfg, Run.of(cfg), torch.device("cpu"))
    assert order == ["dense", "final"] * 8
    assert result == {"images_per_second": pytest.approx(64), "images_per_second_dense": pytest.approx(32),
                      "speedup": pytest.approx(2)}
