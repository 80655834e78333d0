"""Scores of images: exact where the answer is known, refusing where they lack something."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.config.naming import run_folder
from diffprune.evaluation import speed
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.held_out_loss import held_out_loss
from diffprune.evaluation.set_metrics import fid
from diffprune.models.model_folder import save_model
from diffprune.pipeline import reproduce
from diffprune.runs.metrics import STATES
from diffprune.runs.run import Run
from diffprune.runs.samples import Samples
from diffprune.runtime.errors import UserError
from diffprune.stages import evaluate
from diffprune.stages.evaluate import reference_of
from diffprune.stages.options import execution, load_dense, load_images, parts


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "run")


def pictures(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def test_reference_statistics_are_computed_once_and_the_data_is_at_distance_zero(config, run, monkeypatch) -> None:
    cfg, extractor = config(), load_extractor("digits-cnn", None)
    first, about = reference_of(cfg, run, extractor)
    assert about["reference"] == "digits, 1797 images"
    monkeypatch.setattr(type(extractor), "features", lambda *_: pytest.fail("computed twice"))
    again, _ = reference_of(cfg, run, extractor)
    assert fid(first, again) == pytest.approx(0, abs=1e-6 * np.trace(first.gaussian.sigma))
    assert again.features.shape == (1797, 64)


def test_other_statistics_are_kept_apart(config, run) -> None:
    extractor = load_extractor("digits-cnn", None)
    keys = {reference_of(config(f"evaluate.subset={kept}"), run, extractor)[1]["reference_key"] for kept in (10, 20)}
    assert len(keys) == 2


def test_statistics_that_somebody_else_made_are_taken_and_named(config, run, tmp_path) -> None:
    extractor = load_extractor("digits-cnn", None)
    own, _ = reference_of(config(), run, extractor)
    np.savez(tmp_path / "theirs.npz", mu=own.gaussian.mu, sigma=own.gaussian.sigma)
    read, about = reference_of(config(f"evaluate.reference={tmp_path}/theirs.npz"), run, extractor)
    assert fid(own, read) == pytest.approx(0, abs=1e-6 * np.trace(own.gaussian.sigma))
    assert about["reference"] == "theirs.npz"


def test_too_few_images_are_refused_with_both_counts(config, run) -> None:
    run.samples.mkdir(parents=True)
    Samples(3, {}, {}, 0.0).write(run)
    np.save(run.images, pictures(3))
    with pytest.raises(UserError, match=r"holds 3 images, evaluate\.images asks for 1024"):
        evaluate.image_sets(config(), run)


def test_the_clock_alternates_between_the_models_and_reports_the_median(monkeypatch) -> None:
    from tests.conftest import tiny_unet
    dense, final = tiny_unet(), tiny_unet((4, 8))
    order: list[str] = []

    def clock(work, device: torch.device) -> float:
        work()
        return {"dense": 0.2, "final": 0.1}[order[-1]] * (50 if 6 < len(order) <= 12 else 1)

    hooks = [unet.register_forward_hook(lambda *_, name=name: order.append(name))
             for name, unet in (("dense", dense), ("final", final))]
    monkeypatch.setattr(speed, "clocked", clock)
    result = speed.speed(dense, final, batch=64, evaluations=10)
    assert order == (["dense"] * 3 + ["final"] * 3) * 8
    assert result == {"images_per_second": pytest.approx(64), "images_per_second_dense": pytest.approx(32),
                      "speedup": pytest.approx(2)}
    for hook in hooks:
        hook.remove()


def test_models_are_timed_in_the_memory_format_of_the_run(config, monkeypatch) -> None:
    from diffusers import DDIMScheduler

    from diffprune.models.diffusion_model import DiffusionModel
    from tests.conftest import tiny_unet
    models = [DiffusionModel(tiny_unet(), DDIMScheduler()) for _ in range(2)]
    monkeypatch.setattr(evaluate, "load_dense", lambda cfg, run: models[0])
    monkeypatch.setattr(evaluate, "load_own", lambda cfg, folder: models[1])
    cfg = config("memory_format=channels_last", "sampler.steps=1")
    evaluate.time_models(cfg, Run(run_folder(cfg)), execution(cfg))
    assert not any(model.unet.conv_out.weight.is_contiguous() for model in models)


def test_the_protocol_says_which_average_was_sampled(config, tmp_path: Path) -> None:
    assert evaluate.protocol(config(), Run(tmp_path))["ema"] == config().schedule.ema
    assert evaluate.protocol(config("schedule.ema_power=6.94"), Run(tmp_path))["ema"] == "power 6.94"
    assert evaluate.protocol(config("schedule.steps=100"), Run(tmp_path))["ema"] == "0.99 with warm-up"
    assert evaluate.protocol(config("schedule=none"), Run(tmp_path))["ema"] is None


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    ("pruner=none", "schedule.steps=0"), ("pruner=scratch",), ("pruner=random", "schedule.steps=0"),
    ("pruner=none", "model.checkpoint=null")])
def test_baselines_are_the_same_run_with_other_options(config, overrides: tuple[str, ...]) -> None:
    cfg = config("experiment=smoke", *overrides)
    reproduce(cfg, run := Run(run_folder(cfg)))
    metrics = json.loads(run.metrics.read_text())
    assert (metrics["params"] < metrics["params_dense"]) == ("pruner=none" not in overrides)
    if overrides == ("pruner=none", "schedule.steps=0"):
        assert metrics["ssim"] == pytest.approx(1)
        assert metrics["fid"] == metrics["fid_dense"]
        assert metrics["held_out_loss"] == metrics["held_out_loss_dense"]
    assert (metrics["ssim"] is None) == ("model.checkpoint=null" in overrides)
    assert ("held_out_loss_dense" in metrics) == ("model.checkpoint=null" not in overrides)
    assert ("held_out_loss_before_healing" in metrics) == ("schedule.steps=0" not in overrides)
    for state, losses in metrics["held_out_losses"].items():
        assert metrics[f"held_out_loss{STATES[state]}"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_the_protocol_says_how_many_images_are_held_out_where_there_are_some(config, tmp_path: Path) -> None:
    assert evaluate.protocol(config(), Run(tmp_path))["held_out"] == 297
    assert "held_out" not in evaluate.protocol(config("dataset.held_out=0"), Run(tmp_path))


def test_without_held_out_images_there_is_no_loss_on_them(config, tmp_path: Path) -> None:
    cfg = config("dataset.held_out=0")
    assert evaluate.held_out_losses(cfg, Run(tmp_path), execution(cfg)) == {}


@pytest.mark.slow
def test_a_model_that_nothing_was_taken_from_has_the_dense_loss_exactly(config, tmp_path: Path) -> None:
    cfg, run = config("pruner=none", "schedule=none"), Run(tmp_path / "run")
    save_model(load_dense(cfg), run.pruned)
    losses = evaluate.held_out_losses(cfg, run, execution(cfg))
    assert losses["final"] == losses["dense"]
    assert "before_healing" not in losses


@pytest.mark.slow
def test_a_run_from_random_weights_has_no_dense_loss(config, tmp_path: Path) -> None:
    cfg, run = config("model.checkpoint=null", "pruner=none"), Run(tmp_path / "run")
    for folder in (run.pruned, run.finetuned):
        save_model(load_dense(cfg), folder)
    assert evaluate.held_out_losses(cfg, run, execution(cfg)).keys() == {"final", "before_healing"}


@pytest.mark.slow
def test_each_model_of_a_run_has_its_own_loss_on_the_held_out_images(config, tmp_path: Path) -> None:
    cfg, run = config(), Run(tmp_path / "run")
    models = {"dense": load_dense(cfg), "before_healing": load_dense(cfg), "final": load_dense(cfg)}
    for name, folder in (("before_healing", run.pruned), ("final", run.finetuned)):
        with torch.no_grad():
            next(models[name].unet.parameters()).mul_({"before_healing": 0.5, "final": 0.9}[name])
        save_model(models[name], folder)
    losses = evaluate.held_out_losses(cfg, run, execution(cfg))
    held_out = parts(cfg, load_images(cfg))[1]
    assert held_out is not None
    assert losses == {name: held_out_loss(model, held_out, cfg.sampler.batch) for name, model in models.items()}
    assert sum(losses["dense"]) < sum(losses["final"]) < sum(losses["before_healing"])
