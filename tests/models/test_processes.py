"""Models that predict something else than the noise, or that were trained by another process than a DDPM's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file

import diffprune
from diffprune.diffusion.randomness import Noise
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.noise_schedule import process_of
from diffprune.models.scheduler_steps import scheduler_for
from diffprune.pipeline import reproduce
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions
from diffprune.stages.options import load_dense
from tests.conftest import tiny_unet

SCHEDULERS = {
    "v_prediction": DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "no signal at the end": DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    "sample": DDPMScheduler(prediction_type="sample"), "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "edm": EDMEulerScheduler()}
OF_BETAS = ("DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "HeunDiscrete", "DDPM", "DDIM", "PNDM", "LMSDiscrete",
            "EulerAncestralDiscrete", "DEISMultistep", "DPMSolverSinglestep", "KDPM2Discrete")
SAMPLERS = [(prediction, kind) for prediction in ("epsilon", "v_prediction") for kind in OF_BETAS if (prediction, kind) != (
    "v_prediction", "PNDM")] + [("sample", "DPMSolverMultistep"), ("flow", "FlowMatchEulerDiscrete"),
                                ("flow", "UniPCMultistep"), ("edm", "EDMEuler"), ("edm", "EDMDPMSolverMultistep")]


def with_variance() -> UNet2DModel:
    """A tiny UNet that predicts a variance in a second channel."""
    torch.manual_seed(0)
    return UNet2DModel(sample_size=8, in_channels=1, out_channels=2, layers_per_block=1, block_out_channels=(8, 16),
                       norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                       up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None).eval()


def model_of(prediction: str) -> DiffusionModel:
    if prediction == "variance":
        return DiffusionModel(with_variance(), DDPMScheduler(variance_type="learned_range"))
    return DiffusionModel(tiny_unet(), SCHEDULERS.get(prediction) or DDIMScheduler(clip_sample=False))


@pytest.mark.slow
@pytest.mark.parametrize("prediction", [*SCHEDULERS, "variance"])
def test_a_model_goes_through_the_whole_chain(prediction: str, tmp_path: Path, config) -> None:
    """Scored, pruned, compensated, fine-tuned, sampled, evaluated; loaded bit for bit; a diffusers pipeline."""
    save_model(model_of(prediction), tmp_path / "dense")
    cfg = config("model=diffusers", f"model.checkpoint={tmp_path}/dense", "pruner.calibration_batch=8", "pruner.ratio=0.5",
                 "pruner.compensate=ridge", "pruner.compensation_images=32", "dataset.held_out=8",
                 "sampler.steps=3", "sampler.processes=1",
                 "schedule.steps=5", "schedule.batch=8", "schedule.min_snr=5",
                 "schedule.objective={noise: 0.5, output: 0.5}",
                 "evaluate.images=20", "evaluate.speed=false", "evaluate.before_healing=false")
    run = Run(tmp_path / "run")
    reproduce(cfg, run)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert 0 < metrics["params"] < metrics["params_dense"]
    assert np.isfinite([metrics["fid"], metrics["ssim"], metrics["held_out_loss"]]).all()
    final = load_model(run.finetuned)
    stored = load_file(run.finetuned / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in final.unet.state_dict().items())
    assert final.process.prediction == model_of(prediction).process.prediction
    if prediction != "variance":
        images = diffprune.load_pipeline(run.finetuned)(batch_size=2, num_inference_steps=3, output_type="np").images
        assert np.isfinite(images).all()
    plain = DiffusionPipeline.from_pretrained(tmp_path / "dense")       # the dense folder is diffusers' own
    assert process_of(plain.scheduler).prediction == final.process.prediction


def test_scoring_and_fine_tuning_a_predictor_of_a_variance_read_the_mean_alone() -> None:
    model, x, t = model_of("variance"), torch.randn(2, 1, 8, 8), torch.tensor([3, 500])
    both = model.unet(x, t).sample
    assert both.shape == (2, 2, 8, 8)
    assert torch.equal(model.predict(x, t), both[:, :1])


@pytest.mark.parametrize(("prediction", "kind"), SAMPLERS)
def test_any_scheduler_draws_what_the_loaded_pipeline_draws_from_the_same_noise(prediction: str, kind: str,
                                                                                tmp_path: Path) -> None:
    model, chosen = model_of(prediction), {"_target_": f"diffusers.{kind}Scheduler"}
    options = SamplerOptions(steps=4, scheduler=chosen, name="other")
    images = draw(model, range(3), options)
    np.testing.assert_array_equal(draw(model, range(2, 3), options), images[2:])
    save_model(model, tmp_path / "model")
    pipeline = diffprune.load_pipeline(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler_for(pipeline.scheduler, chosen)
    # The noise of image i comes from its own stream, on which a stochastic scheduler then draws.
    theirs = pipeline(batch_size=3, generator=Noise(range(3), 0).streams, num_inference_steps=4, output_type="np").images
    np.testing.assert_allclose(theirs * 255, images, atol=0.51)


@pytest.mark.parametrize(("prediction", "kind"), [
    ("epsilon", "FlowMatchEulerDiscrete"), ("epsilon", "EDMEuler"), ("flow", "EulerAncestralDiscrete"), ("flow", "EDMEuler"),
    ("edm", "DDIM"), ("edm", "FlowMatchEulerDiscrete")])
def test_a_sampler_of_another_process_is_refused(prediction: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"{kind}Scheduler draws with another process than the model's"):
        SamplerOptions(steps=2, scheduler={"_target_": f"diffusers.{kind}Scheduler"}).check(model_of(prediction), "mine")


@pytest.mark.parametrize(("overrides", "message"), [
    (["sampler=euler", "sampler.eta=0.5"], "sampler.eta=0.5 needs a DDIM scheduler"),
    (["sampler=euler", "+sampler.scheduler.mine=1"], "EulerDiscreteScheduler takes no mine"),
    (["sampler=euler", "+sampler.scheduler.interpolation_type=mine"], "cannot draw in sampler.steps=50"),
    (["sampler=dpm_solver", "+sampler.scheduler.algorithm_type=mine"], "DPMSolverMultistepScheduler cannot be made of"),
    (["sampler.scheduler={_target_: diffusers.Mine}"], "sampler.scheduler has no class")])
def test_what_a_scheduler_does_not_take_is_refused_before_anything_runs(overrides: list[str], message: str, config) -> None:
    with pytest.raises(UserError, match=message):
        load_dense(config(*overrides))
