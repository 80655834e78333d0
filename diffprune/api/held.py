"""What a caller holds, a pipeline, a network or a model, and how it is left: changed as asked for and in nothing else."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import family_of
from diffprune.models.noise_schedule import read_scheduler
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import refusals_as_user_errors

Held = DiffusionPipeline | DiffusionModel | nn.Module


def model_of(held: Held, scheduler: object = None) -> DiffusionModel:
    """The model that a pipeline draws with, or that a network is with a noise `scheduler` of diffusers; nothing is copied.

    Raises UserError for another process than those that can be scored, and for a pipeline with networks of another kind.
    """
    if isinstance(held, DiffusionModel):
        return held
    if isinstance(held, DiffusionPipeline):
        return model_of_pipeline(held, scheduler)
    if not isinstance(held, nn.Module) or not hasattr(held, "config"):
        raise UserError(f"a {type(held).__name__} is no model: give a diffusers pipeline or network "
                        "(diffprune.load_pipeline reads a folder)")
    return DiffusionModel(held, read_scheduler(config_of_scheduler(scheduler or DDIMScheduler())))


def model_of_pipeline(pipeline: DiffusionPipeline, scheduler: object = None) -> DiffusionModel:
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    name = next((name for name in ("unet", "transformer") if name in parts), None)
    if name is None:
        raise UserError(f"a {type(pipeline).__name__} has neither a unet nor a transformer: give its network and scheduler")
    unet, schedule = parts.pop(name), config_of_scheduler(scheduler or parts.pop("scheduler"))
    parts.pop("scheduler", None)
    family = family_of(type(unet), parts, f"a {type(pipeline).__name__}")
    fixed = {name: part for name, part in parts.items() if name in family.fixed}
    return DiffusionModel(unet, read_scheduler(schedule), family(**fixed))


def config_of_scheduler(scheduler: object) -> dict:
    """The options of a scheduler, with its class, as its scheduler_config.json has them."""
    return {**getattr(scheduler, "config", {}), "_class_name": type(scheduler).__name__}


@contextmanager
def left_as_found(model: DiffusionModel) -> Generator[None]:
    """Afterwards, also after an error, the layers of the model's `unet` have the modes and its weights the requires_grad
    that they had, the networks are on their device and the random state is the caller's."""
    unet, device = model.unet, model.device
    modes = {name: module.training for name, module in unet.named_modules()}
    trained = {name: weight.requires_grad for name, weight in unet.named_parameters()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, module in unet.named_modules():
                module.training = modes.get(name, module.training)
            for name, weight in unet.named_parameters():        # by name: a cut makes new ones
                weight.requires_grad_(trained[name])
            if model.device != device:
                model.to(device)


@contextmanager
def gradients_aside(unet: nn.Module) -> Generator[None]:
    """Within it no weight has a gradient; afterwards, also after an error, each has that of before."""
    gradients = {name: weight.grad for name, weight in unet.named_parameters()}
    unet.zero_grad()
    try:
        yield
    finally:
        for name, weight in unet.named_parameters():
            weight.grad = gradients[name]


@contextmanager
def mistakes_as_value_errors() -> Generator[None]:
    """What a command would show as one sentence is a ValueError with that sentence in a program."""
    try:
        with refusals_as_user_errors():
            yield
    except UserError as error:
        raise ValueError(str(error)) from error
