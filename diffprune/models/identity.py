"""What decides the bits that a model computes, for the keys of everything that is kept of it."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

CODE = 1        # raised when this package computes other bits from the same inputs
LIBRARIES = ("diffusers", "numpy", "pillow", "torchvision", "transformers")


def model_key(networks: Iterable[nn.Module], scheduler: Any, family: type) -> str:
    """Hex digest of all that decides what a model computes: each of its `networks`, weights and architecture, the `family`
    that joins them, and of the noise schedule alpha_bar and what is predicted."""
    schedule = {"prediction": scheduler.config.get("prediction_type", "epsilon"),
                "last": float(getattr(scheduler, "final_alpha_cumprod", 1.0))}
    digest = hashlib.sha256(json.dumps(schedule).encode())
    digest.update(scheduler.alphas_cumprod.cpu().contiguous().numpy().tobytes())
    digest.update(f"{family.__module__}.{family.__qualname__}".encode())
    for network in networks:
        digest.update(state_key(network).encode() + architecture(network).encode())
    return digest.hexdigest()


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
    config = {name: value for name, value in dict(getattr(network, "config", {})).items() if not name.startswith("_")}
    heads = {name: layer.heads for name, layer in network.named_modules() if isinstance(getattr(layer, "heads", None), int)}
    return json.dumps([f"{type(network).__module__}.{type(network).__qualname__}", config, heads, repr(network)],
                      sort_keys=True, default=str)


def computation(device: torch.device, precision: str = "no", memory_format: str = "contiguous",
                threads: int | None = None) -> dict[str, Any]:
    """What besides model and input decides the last bits of a result: precision and memory format, the code, the libraries,
    the kind of processor, and on a CPU the number of `threads` that share a sum (torch's unless given)."""
    on_gpu = device.type == "cuda"
    return {"precision": precision, "memory_format": memory_format, "code": CODE, "torch": torch.__version__,
            "processor": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "threads": None if on_gpu else threads or torch.get_num_threads(), **{name: version(name) for name in LIBRARIES}}
