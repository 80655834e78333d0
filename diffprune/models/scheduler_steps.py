"""Drawing with any scheduler of diffusers: one loop for all, and the scheduler that fits a model's process."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

from hydra.utils import get_class
from torch import Generator, Tensor

from diffprune.diffusion.process import Predictor
from diffprune.models.noise_schedule import EDM, FLOW, WITH_BETAS, accepted, process_of
from diffprune.runtime.errors import UserError

Generators = Generator | list[Generator] | None


def drawn(scheduler: Any, predict: Predictor, noise: Tensor, steps: int, eta: float = 0.0, generator: Generators = None,
          progress: Callable[[Tensor], Iterable[Tensor]] = iter) -> Tensor:
    """What `steps` steps of a diffusers `scheduler` make of unit `noise` [B, C, H, W].

    `predict` is given the scaled images and the scheduler's own timestep for each. `generator`, or a list of one per image,
    gives what stochastic schedulers draw. ValueError for an `eta` above 0 where the scheduler takes none.
    """
    options = step_options(scheduler, eta, generator)
    scheduler.set_timesteps(steps, device=noise.device)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in progress(scheduler.timesteps):
        x = scheduler.step(predict(scale(x, t), t.expand(len(x))), t, x, **options).prev_sample
    return x


def step_options(scheduler: Any, eta: float, generator: Generators) -> dict[str, Any]:
    """What the scheduler's step takes of `eta` and `generator`; ValueError for an `eta` that it cannot honour."""
    taken = signature(scheduler.step).parameters
    if eta and "eta" not in taken:
        raise ValueError(f"eta={eta} needs a DDIM scheduler, {type(scheduler).__name__} has none")
    return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in taken}


def scheduler_for(trained: Any, chosen: Mapping[str, Any]) -> Any:
    """The `chosen` scheduler of diffusers, {"_target_": its class, and its options}, for the process of `trained`, the one
    that a model was trained with. UserError where there is none of that name, or where it is of another process."""
    given, process = dict(chosen), process_of(trained)
    try:
        kind: Any = get_class(given.pop("_target_"))
    except (KeyError, ImportError, ValueError) as error:
        raise UserError(f"sampler.scheduler has no class ({error}): give sampler.scheduler._target_=diffusers.NAME "
                        "with the name of a scheduler") from error
    config = dict(trained.config)
    fitting = EDM if process.prediction == "edm" else FLOW if process.prediction == "flow" else WITH_BETAS
    if process.prediction == "flow" and "use_flow_sigmas" in signature(kind).parameters:
        given = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": config["shift"]} | given
    elif kind.__name__ not in fitting:
        raise UserError(f"{kind.__name__} draws with another process than the model's ({process.prediction}): choose a "
                        f"sampler of {', '.join(sorted(fitting))}")
    if str(config.get("variance_type")).startswith("learned"):      # the mean alone is predicted for it
        config["variance_type"] = "fixed_small"
    if unknown := sorted(set(given) - set(accepted(kind, given))):
        raise UserError(f"{kind.__name__} takes no {', '.join(unknown)}: give options of that scheduler")
    try:
        return kind(**accepted(kind, config | given))
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise UserError(f"{kind.__name__} cannot be made of {given} ({error}): give other options") from error


def check_scheduler(trained: Any, chosen: Mapping[str, Any], steps: int, eta: float) -> None:
    """UserError where `scheduler_for` refuses the `chosen` scheduler, or where that takes no such `steps` or `eta`."""
    scheduler = scheduler_for(trained, chosen)
    try:
        step_options(scheduler, eta, None)
    except ValueError as error:
        raise UserError(f"sampler.{error}: give sampler.eta=0") from error
    try:
        scheduler.set_timesteps(steps)
    except (ValueError, TypeError, LookupError, ImportError) as error:
        raise UserError(f"{type(scheduler).__name__} cannot draw in sampler.steps={steps} ({error}): give others, or "
                        "another sampler") from error
