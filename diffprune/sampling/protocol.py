"""What decides the bits of an image."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffprune.models.diffusion_model import DiffusionModel


def plan(model: DiffusionModel, cfg: DictConfig) -> dict[str, Any]:
    """What decides the bits of every image, beside the number of images in a batch."""
    return image_key(model, cfg) | {"device": model.device.type}


def image_key(model: DiffusionModel, cfg: DictConfig) -> dict[str, Any]:
    memory = {} if cfg.memory_format == "contiguous" else {"memory_format": cfg.memory_format}
    return memory | {"model": model.key, "images": cfg.evaluate.images, "precision": cfg.precision,
                     "sampler": sampler_protocol(cfg)}


def sampler_protocol(cfg: DictConfig) -> dict:
    """The sampler's options that change an image; guidance only where there is any."""
    options = OmegaConf.to_container(cfg.sampler, resolve=True)
    unused = {"batch", "processes"} | ({"guidance"} if options["guidance"] is None else set())
    return {name: value for name, value in options.items() if name not in unused}
