"""Noise schedules: a model keeps the betas it was trained with, and one of another process is refused with the reason."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
)

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.noise_schedule import process_of, read_scheduler
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_dense
from tests.conftest import tiny_unet


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_the_betas_are_those_of_the_training(kind: type, beta_schedule: str) -> None:
    training = DDPMScheduler(num_train_timesteps=20, beta_schedule=beta_schedule, beta_end=0.05)
    scheduler = read_scheduler({**training.config, "_class_name": kind.__name__})
    assert torch.equal(scheduler.alphas_cumprod, training.alphas_cumprod)
    assert not scheduler.config.clip_sample


def test_sigmoid_betas_outlast_the_folder_of_a_pruned_model(tmp_path: Path) -> None:
    scheduler = read_scheduler(dict(DDPMScheduler(num_train_timesteps=20, beta_schedule="sigmoid").config))
    save_model(DiffusionModel(tiny_unet(), scheduler), tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").scheduler.alphas_cumprod, scheduler.alphas_cumprod)


SIGMAS = {"num_train_timesteps": 20, "sigma_min": 0.01, "sigma_max": 80.0}


@pytest.mark.parametrize(("config", "named"), [
    *((SIGMAS | {"_class_name": f"{kind}Scheduler"}, kind) for kind in (
        "ScoreSdeVe", "ScoreSdeVp", "KarrasVe", "CMStochasticIterative", "LCM", "Mine")),
    ({}, "no scheduler"), ({"num_train_timesteps": 20}, "no scheduler")])
def test_an_unknown_process_is_refused_by_name(config: dict, named: str) -> None:
    with pytest.raises(UserError, match=f"the noise schedule is of {named}.*by flow matching or with EDM"):
        read_scheduler(config)


@pytest.mark.parametrize(("options", "message"), [
    ({"prediction_type": "mine"}, "predicts mine"), ({"rescale_betas_zero_snr": True}, "no signal at the last timestep"),
    ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "predicts sample"),
    ({"beta_start": "0.1"}, "no noise schedule can be made"), ({"beta_schedule": "mine"}, "no noise schedule can be made"),
    ({"beta_end": float("nan")}, "damaged: give 20 betas"), ({"beta_start": -0.1}, "damaged: give 20 betas"),
    ({"trained_betas": [0.1] * 19}, "damaged: give 20 betas"), ({"trained_betas": []}, "damaged: give 20 betas"),
    ({"num_train_timesteps": 0}, "damaged: give 0 betas"), ({"_class_name": []}, r"is of \[\]"),
    ({"beta_end": -1, "beta_schedule": "scaled_linear"}, "no noise schedule can be made")])
def test_a_schedule_that_cannot_be_followed_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scheduler({"_class_name": "DDPMScheduler", "num_train_timesteps": 20, "beta_start": 1e-4, "beta_end": 0.02,
                        **options})


def test_the_file_is_named(tmp_path: Path) -> None:
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(SIGMAS | {"_class_name": "ScoreSdeVeScheduler"}))
    with pytest.raises(UserError, match=f"{file}: the noise schedule is of ScoreSdeVeScheduler"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(("config", "prediction"), [
    ({"prediction_type": "v_prediction"}, "v_prediction"), ({"prediction_type": "sample"}, "sample"),
    ({"predict_epsilon": False}, "sample"),
    ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v_prediction"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "flow"),
    ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0,
      "prediction_type": "flow_prediction"}, "flow"),
    (SIGMAS | {"_class_name": "EDMEulerScheduler"}, "edm"),
    (SIGMAS | {"_class_name": "EDMDPMSolverMultistepScheduler"}, "edm")])
def test_what_the_network_predicts_is_read_and_outlasts_the_folder(config: dict, prediction: str, tmp_path: Path) -> None:
    scheduler = read_scheduler({"_class_name": "DDPMScheduler", "num_train_timesteps": 20, "beta_start": 1e-4,
                                "beta_end": 0.02, **config})
    model = DiffusionModel(tiny_unet(), scheduler)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.process.prediction == prediction
    assert torch.equal(loaded.process.noise, model.process.noise)
    assert loaded.process.timesteps == 20
    assert loaded.key == model.key


def test_flow_shifts_agree_whatever_scheduler_names_them() -> None:
    named = ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, {"_class_name": "UniPCMultistepScheduler",
             "use_flow_sigmas": True, "flow_shift": 3.0})
    one, other = (process_of(read_scheduler({"num_train_timesteps": 20, **config})) for config in named)
    assert torch.equal(one.noise, other.noise)
    assert float(one.noise[9]) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


def test_drawing_leaves_the_process_of_a_scheduler_as_it_was() -> None:
    for scheduler in (FlowMatchEulerDiscreteScheduler(20), EDMEulerScheduler(num_train_timesteps=20)):
        before = process_of(scheduler)
        scheduler.set_timesteps(3)
        assert torch.equal(process_of(scheduler).noise, before.noise)


@pytest.mark.parametrize("scheduler", [LCMScheduler(), ScoreSdeVeScheduler(), DDIMScheduler(rescale_betas_zero_snr=True)],
                         ids=lambda s: type(s).__name__)
def test_no_model_is_made_with_such_a_scheduler(scheduler: object) -> None:
    with pytest.raises(UserError, match=r"betas of a DDPM|no signal"):
        DiffusionModel(tiny_unet(), scheduler)


def test_no_model_with_random_weights_either(config) -> None:
    with pytest.raises(UserError, match="predicts mine"):
        load_dense(config("model.checkpoint=null", "+model.scheduler.prediction_type=mine"))
