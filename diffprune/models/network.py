"""A diffusers network and the options that it was made with."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from diffusers.configuration_utils import ConfigMixin
from torch import nn

Kind = TypeVar("Kind", bound=nn.Module)


def config_of(network: nn.Module) -> Mapping[str, Any]:
    """The options of a diffusers network, as its config.json has them."""
    return cast("Mapping[str, Any]", network.config)


def from_config(kind: type[Kind], config: Mapping[str, Any]) -> Kind:
    """A network of the diffusers class `kind` with the options `config`, initialised as its constructor does."""
    assert issubclass(kind, ConfigMixin), f"{kind.__name__} is no class of diffusers"
    return cast("Kind", kind.from_config(dict(config)))
