"""Scores of images: exact where the answer is known, refusing where they lack something."""

import json

import numpy as np
import pytest
import torch

from diffprune.evaluation import speed
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.reference import reference
from diffprune.evaluation.set_metrics import fid
from diffprune.pipeline import reproduce
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.stages import evaluate


def pictures(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def test_reference_statistics_are_computed_once_and_the_data_is_at_distance_zero(config, monkeypatch) -> None:
    cfg, extractor = config(), load_extractor("digits-cnn", None)
    first, about = reference(cfg, extractor)
    assert about["reference"] == "digits, 1797 images"
    monkeypatch.setattr(type(extractor), "features", lambda *_: pytest.fail("computed twice"))
    again, _ = reference(cfg, extractor)
    assert fid(first, again) == pytest.approx(0, abs=1e-6 * np.trace(first.statistics.sigma))
    assert again.features.shape == (1797, 64)


def test_other_statistics_are_kept_apart(config) -> None:
    extractor = load_extractor("digits-cnn", None)
    keys = {reference(config(f"evaluate.subset={kept}"), extractor)[1]["reference_key"] for kept in (10, 20)}
    assert len(keys) == 2


def test_statistics_that_somebody_else_made_are_taken_and_named(config, tmp_path) -> None:
    extractor = load_extractor("digits-cnn", None)
    own, _ = reference(config(), extractor)
    np.savez(tmp_path / "theirs.npz", mu=own.statistics.mu, sigma=own.statistics.sigma)
    read, about = reference(config(f"evaluate.reference={tmp_path}/theirs.npz"), extractor)
    assert fid(own, read) == pytest.approx(0, abs=1e-6 * np.trace(own.statistics.sigma))
    assert about["reference"] == "theirs.npz"


def test_too_few_images_are_refused_with_both_counts(config, tmp_path) -> None:
    run = Run(tmp_path)
    run.samples.mkdir()
    np.save(run.images, pictures(3))
    with pytest.raises(UserError, match=r"holds 3 images, evaluate\.images asks for 1024"):
        evaluate.stored_images(config(), run)


def test_the_clock_alternates_between_the_models_and_reports_the_median(config, monkeypatch) -> None:
    from diffusers import DDIMScheduler

    from diffprune.models.model_folder import DiffusionModel
    from tests.conftest import tiny_unet
    dense, final = tiny_unet(), tiny_unet((4, 8))
    order: list[str] = []

    def clock(unet: torch.nn.Module, batch: int) -> float:
        order.append("dense" if unet is dense else "final")
        return {"dense": 0.2, "final": 0.1}[order[-1]] * (50 if 6 < len(order) <= 12 else 1)

    monkeypatch.setattr(speed, "load_dense", lambda cfg: DiffusionModel(dense, DDIMScheduler()))
    monkeypatch.setattr(speed, "load_model", lambda folder: DiffusionModel(final, DDIMScheduler()))
    monkeypatch.setattr(speed.latency, "seconds", clock)
    cfg = config("sampler.steps=10")
    result = speed.speed(cfg, Run.of(cfg), torch.device("cpu"))
    assert order == (["dense"] * 3 + ["final"] * 3) * 8
    assert dense.conv_out.weight.is_contiguous()
    speed.speed(config("memory_format=channels_last"), Run.of(cfg), torch.device("cpu"))
    assert not any(unet.conv_out.weight.is_contiguous() for unet in (dense, final))
    assert result == {"images_per_second": pytest.approx(64), "images_per_second_dense": pytest.approx(32),
                      "speedup": pytest.approx(2)}


def test_the_protocol_says_which_average_was_sampled(config) -> None:
    assert evaluate.protocol(config())["ema"] == config().schedule.ema
    assert evaluate.protocol(config("schedule.ema_power=6.94"))["ema"] == "power 6.94"
    assert evaluate.protocol(config("schedule=none"))["ema"] is None


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    ("pruner=none", "schedule.steps=0"), ("pruner=scratch",), ("pruner=random", "schedule.steps=0"),
    ("pruner=none", "model.checkpoint=null")])
def test_baselines_are_the_same_run_with_other_options(config, overrides: tuple[str, ...]) -> None:
    cfg = config("experiment=smoke", *overrides)
    reproduce(cfg, run := Run.of(cfg))
    metrics = json.loads(run.metrics.read_text())
    assert (metrics["params"] < metrics["params_dense"]) == ("pruner=none" not in overrides)
    if overrides == ("pruner=none", "schedule.steps=0"):
        assert metrics["ssim"] == pytest.approx(1)
        assert metrics["fid"] == metrics["fid_dense"]
    assert (metrics["ssim"] is None) == ("model.checkpoint=null" in overrides)
