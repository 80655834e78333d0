"""A diffusers network and the options that it was made with."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from torch.overrides import TorchFunctionMode

from diffprune.runtime.errors import UserError

Kind = TypeVar("Kind", bound=nn.Module)


def class_name(kind: type) -> str:
    """The full name of a class, with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """The options of a diffusers network, as its config.json has them."""
    return cast("Mapping[str, Any]", network.config)


def from_config(kind: type[Kind], config: Mapping[str, Any]) -> Kind:
    """A network of the diffusers class `kind` with the options `config`, initialised as its constructor does."""
    assert issubclass(kind, ConfigMixin), f"{kind.__name__} is no class of diffusers"
    return cast("Kind", kind.from_config(dict(config)))


def height_and_width(network: nn.Module) -> tuple[int, int]:
    """Height and width of what a network with a `sample_size` takes; UserError where its config leaves that open."""
    size: Any = config_of(network).get("sample_size")
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"the config.json of the {type(network).__name__} has sample_size={size}: give the height and width "
                        "of the images or latents that it was trained on")
    return sides


class WithoutWeights(TorchFunctionMode):
    """Within it, layers that this thread makes have their weights on the meta device: nothing is drawn. Buffers are real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))
