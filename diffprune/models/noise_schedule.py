"""The scheduler that a model was trained with and the process it stands for: read from its folder, refused where unknown."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from diffprune.diffusion.process import Process
from diffprune.runtime.errors import UserError

# The schedulers of diffusers that DDIM with the same betas can take the place of.
WITH_BETAS = {kind.name for kind in KarrasDiffusionSchedulers} - {"EDMEulerScheduler"} | {
    "DDIMParallelScheduler", "DDPMParallelScheduler"}
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SUPPORTED = ("only models trained with the betas of a DDPM, by flow matching or with EDM's preconditioning can be scored, "
             "sampled and trained here")


def read_scheduler(config: Mapping[str, Any]) -> Any:
    """The noise schedule in a scheduler's `config`: one in betas as DDIM without clipping, as the paper samples; of flow
    matching and of EDM as Euler's method.

    Raises UserError for a scheduler of another process, of which DDIM would use its own default betas.
    """
    kind, options = str(config.get("_class_name", "no scheduler")), dict(config)
    scheduler: Any
    try:
        if kind in FLOW:
            scheduler = FlowMatchEulerDiscreteScheduler(**accepted(FlowMatchEulerDiscreteScheduler, options))
        elif options.get("use_flow_sigmas") or options.get("prediction_type") == "flow_prediction":
            scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=options["num_train_timesteps"],
                                                        shift=options.get("flow_shift") or 1.0)
        elif kind in EDM:
            scheduler = EDMEulerScheduler(**accepted(EDMEulerScheduler, options))
        elif kind in WITH_BETAS or ("_class_name" not in options and "beta_start" in options):
            scheduler = as_ddim(options)
        else:
            raise UserError(f"the noise schedule is of {kind}: {SUPPORTED}")
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise UserError(f"no noise schedule can be made of it ({error}): copy it from where the model comes from") from error
    process_of(scheduler)
    return scheduler


def as_ddim(config: dict[str, Any]) -> DDIMScheduler:
    """The betas of `config` and what is predicted as DDIM, without clipping and with a last step to the clean image."""
    if config.get("predict_epsilon") is False:      # as diffusers wrote it before 0.10
        config = {**config, "prediction_type": "sample"}
    changed: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": True}
    if config.get("beta_schedule") in ("sigmoid", "laplace"):       # unknown to DDIM
        original: Any = DDPMScheduler.from_config(config)
        changed["trained_betas"] = original.betas.tolist()
    scheduler: Any = DDIMScheduler.from_config(config, **changed)
    return scheduler


def process_of(scheduler: Any) -> Process:
    """The process that models are trained for with a `scheduler`; UserError for one that is not known here."""
    kind, options = type(scheduler).__name__, scheduler.config
    if kind in (*FLOW, *EDM):
        # Of a new one: sampling replaces the sigmas of training. (A shift by the image's size is made for each drawing.)
        new, timesteps = type(scheduler)(**accepted(type(scheduler), options)), options["num_train_timesteps"]
        sigma = new.sigmas[:timesteps].flip(0).float().cpu()
        return Process.flow(sigma, timesteps) if kind in FLOW else edm(sigma, options)
    if kind not in WITH_BETAS:
        raise UserError(f"the noise schedule is of {kind}: {SUPPORTED}")
    return ddpm(scheduler)


def accepted(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `options` that the constructor of the scheduler `kind` takes."""
    return {name: value for name, value in options.items() if name in signature(kind).parameters}


def edm(sigma: Tensor, options: Mapping[str, Any]) -> Process:
    """The process of an EDM scheduler with the standard deviations `sigma` [T] of its training timesteps."""
    if options["prediction_type"] not in PREDICTIONS[:2]:
        raise UserError(f"the model predicts {options['prediction_type']}, EDM's {' or '.join(PREDICTIONS[:2])}: copy the "
                        "scheduler's configuration from where the model comes from")
    sign = 1 if options["prediction_type"] == "epsilon" else -1
    return Process.edm(sigma, sign * options["sigma_data"])


def ddpm(scheduler: Any) -> Process:
    """The process of a scheduler in betas; UserError where they are damaged, or where nothing can be drawn with them."""
    alpha_bar, options = scheduler.alphas_cumprod.cpu(), scheduler.config
    prediction = options.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(f"the model predicts {prediction}: only models that predict {', '.join(PREDICTIONS)} can be scored, "
                        "sampled and trained here")
    if not 0 < alpha_bar.numel() == options["num_train_timesteps"] or not ((alpha_bar >= 0) & (alpha_bar < 1)).all():
        raise UserError(f"the noise schedule is damaged: give {options['num_train_timesteps']} betas (num_train_timesteps) "
                        "between 0 and 1")
    if prediction == "epsilon" and options.get("rescale_betas_zero_snr") and alpha_bar[-1] == 0:
        raise UserError("the noise schedule leaves no signal at the last timestep (rescale_betas_zero_snr makes alpha_bar 0 "
                        "there), from where a predictor of the noise cannot go back: give another model")
    return Process.ddpm(alpha_bar.to(torch.float32), prediction)
