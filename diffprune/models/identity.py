"""What decides the bits that a model computes, for the keys of everything that is kept of it."""

import hashlib
import inspect
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from diffprune.models.network import class_name
from diffprune.runs.provenance import installed_versions

CODE = 2        # raised when this package computes other bits from the same inputs
LIBRARIES = ("diffusers", "numpy", "pillow", "torchvision", "transformers")


def model_key(networks: Iterable[nn.Module], scheduler: Any, family: type, lasting: bool = False) -> str:
    """Hex digest of all that decides what a model computes: each of its `networks`, weights and architecture, the `family`
    that joins them, and of the `scheduler` its process. A `lasting` key holds of the architecture
    what the model's folder says, so that another version of a library leaves it."""
    digest = hashlib.sha256(process_key(scheduler))
    digest.update(class_name(family).encode())
    for network in networks:
        digest.update(state_key(network).encode() + (options_given if lasting else architecture)(network).encode())
    return digest.hexdigest()


def process_key(scheduler: Any) -> bytes:
    """What decides the process of a scheduler in betas: alpha_bar and what is predicted; of any other its options."""
    if (alpha_bar := getattr(scheduler, "alphas_cumprod", None)) is None:
        options = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
        return json.dumps([type(scheduler).__name__, options], sort_keys=True, default=str).encode()
    schedule = {"prediction": scheduler.config.get("prediction_type", "epsilon"),
                "last": float(getattr(scheduler, "final_alpha_cumprod", 1.0))}
    return json.dumps(schedule).encode() + alpha_bar.cpu().contiguous().numpy().tobytes()


def state_key(module: nn.Module) -> str:
    """Hex digest of every weight's name, type, shape and value."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def architecture(network: nn.Module) -> str:
    """The class of a network, its config and its layers, with the heads that narrowed attention has left: what computes
    with its weights. Where it came from, and the version of the library that wrote it, are left out."""
    return json.dumps([class_name(type(network)), options_of(network), heads(network), repr(network)],
                      sort_keys=True, default=str)


def options_given(network: nn.Module) -> str:
    """The class of a network and those of its options that differ from their defaults, with the heads that are left."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(network).__init__).parameters.items()}
    config = {name: value for name, value in options_of(network).items()
              if name in defaults and value != defaults[name]}
    return json.dumps([type(network).__qualname__, config, heads(network)], sort_keys=True, default=str)


def options_of(network: nn.Module) -> dict[str, Any]:
    """The options that a network of diffusers or transformers was made with, without notes of the library."""
    config: Any = getattr(network, "config", {})
    return {name: value for name, value in dict(config.to_dict() if hasattr(config, "to_dict") else config).items()
            if not name.startswith("_")}


def heads(network: nn.Module) -> dict[str, int]:
    """{layer: its number of heads}, of which pruning may have left fewer than the config says."""
    return {name: layer.heads for name, layer in network.named_modules() if isinstance(getattr(layer, "heads", None), int)}


def computation(device: torch.device, precision: str = "fp32", memory_format: str = "contiguous", compile: str = "no",
                threads: int | None = None) -> dict[str, Any]:
    """What besides model and input decides the last bits of a result: precision, memory format and compilation, the code,
    the libraries, the kind of processor, and on a CPU the number of `threads` that share a sum (torch's unless given)."""
    on_gpu = device.type == "cuda"
    return {"precision": precision, "memory_format": memory_format, "compile": compile, "code": CODE,
            "torch": torch.__version__,
            "processor": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "threads": None if on_gpu else threads or torch.get_num_threads(), **installed_versions(LIBRARIES)}
