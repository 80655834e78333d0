"""The noise schedule that a model was trained with: read from its folder, refused where it is of another process."""

from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from diffprune.runtime.errors import UserError

# The schedulers of diffusers that DDIM with the same betas can take the place of.
WITH_BETAS = {kind.name for kind in KarrasDiffusionSchedulers} - {"EDMEulerScheduler"} | {
    "DDIMParallelScheduler", "DDPMParallelScheduler"}
SUPPORTED = "only predictors of the noise (epsilon) with the betas of a DDPM can be scored, sampled and trained here"


def as_ddim(config: dict[str, Any]) -> DDIMScheduler:
    """The noise schedule in a scheduler's `config` as DDIM without clipping, as the paper samples.

    Raises UserError for a scheduler of another process, of which DDIM would use its own default betas.
    """
    kind = str(config.get("_class_name", "no scheduler"))
    if not (kind in WITH_BETAS or ("_class_name" not in config and "beta_start" in config)) or config.get("use_flow_sigmas"):
        raise UserError(f"the noise schedule is of {kind}: {SUPPORTED}")
    if config.get("predict_epsilon") is False:      # as diffusers wrote it before 0.10
        config = {**config, "prediction_type": "sample"}
    changed: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": True}
    try:
        if config.get("beta_schedule") in ("sigmoid", "laplace"):       # unknown to DDIM
            original = DDPMScheduler.from_config(config)
            assert isinstance(original, DDPMScheduler)
            changed["trained_betas"] = original.betas.tolist()
        scheduler = DDIMScheduler.from_config(config, **changed)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise UserError(f"no noise schedule can be made of it ({error}): copy it from where the model comes from") from error
    assert isinstance(scheduler, DDIMScheduler)
    check_process(scheduler)
    return scheduler


def check_process(scheduler: Any) -> None:
    """UserError unless models trained with `scheduler` predict the noise, from images that hold some signal."""
    alpha_bar, options = getattr(scheduler, "alphas_cumprod", None), scheduler.config
    if alpha_bar is None:
        raise UserError(f"the noise schedule is of {type(scheduler).__name__}: {SUPPORTED}")
    if options.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"the model predicts {options['prediction_type']}: {SUPPORTED}")
    if not 0 < alpha_bar.numel() == options["num_train_timesteps"] or not ((alpha_bar >= 0) & (alpha_bar < 1)).all():
        raise UserError(f"the noise schedule is damaged: give {options['num_train_timesteps']} betas (num_train_timesteps) "
                        "between 0 and 1")
    if options.get("rescale_betas_zero_snr") and alpha_bar[-1] == 0:
        raise UserError("the noise schedule leaves no signal at the last timestep (rescale_betas_zero_snr makes alpha_bar 0 "
                        "there), from where a predictor of the noise cannot go back: give another model")
