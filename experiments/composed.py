"""Runs' options from their overrides, as Hydra composes them, at the cost of one composition for many.

Composing takes a tenth of a second. Runs that choose the same groups differ in plain values alone, so that their common
part is composed once, and the values are set as the schema's types take them. What that cannot do, Hydra does in full.
"""

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, ValidationError

from diffprune.composition import register
from diffprune.config import OUTSIDE_THE_HASH, branch_of
from diffprune.errors import UserError

CONF = Path(__file__).parent.parent / "conf"
VALUE = re.compile(r"[a-z_]\w*(\.\w+)*=.*", re.DOTALL)


def composed(overrides: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    """What Hydra composes, for `with_hydra` with its own node."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


class Composer:
    """Options of many runs; remembers what it composed."""

    def __init__(self) -> None:
        self.bases: dict[tuple[str, ...], Base] = {}

    def options(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        """All options, resolved, in a dict of the caller's own; what is not chosen yet is `???`."""
        groups = tuple(text for text in overrides if not is_value(text))
        base = self.base(groups)
        try:
            return base.with_values([text for text in overrides if is_value(text)])
        except (NotPlain, ValidationError):     # also a mistake, which Hydra names better
            return own(self.base(overrides).options)

    def base(self, overrides: tuple[str, ...]) -> "Base":
        if overrides not in self.bases:
            self.bases[overrides] = Base(composed(overrides))
        return self.bases[overrides]


class NotPlain(Exception):
    """An override that may change more than one value."""


@dataclass
class Base:
    """What runs of the same groups share."""
    cfg: DictConfig

    @cached_property
    def options(self) -> dict[str, Any]:
        return OmegaConf.to_container(self.cfg, resolve=True)

    @cached_property
    def interpolations(self) -> str:
        """Every value that refers to another one, as text."""
        raw = json.dumps(OmegaConf.to_container(self.cfg, resolve=False), indent=0)     # a value a line
        return "\n".join(re.findall(r"\$\{[^\n\"]*\}", raw))

    def with_values(self, overrides: list[str]) -> dict[str, Any]:
        """The options after `key=value` overrides; raises NotPlain or ValidationError where Hydra has to look."""
        options = own(self.options)
        for text in overrides:
            key = text.partition("=")[0]
            branch_of(options, key)[key.rpartition(".")[2]] = self.typed(text)
        return options

    @cache    # noqa: B019  (a base lives as long as its composer)
    def typed(self, text: str) -> Any:
        """The value of `key=value` as the schema's type of `key` takes it."""
        key, value = parsed(text)
        branch, last = branch_of(self.options, key), key.rpartition(".")[2]
        if last not in branch or isinstance(branch[last], dict | list) or isinstance(value, dict | list):
            raise NotPlain(text)
        if re.search(rf"\b{re.escape(key)}\b", self.interpolations) or self.refers(key) or "${" in str(value):
            raise NotPlain(text)
        OmegaConf.update(self.cfg, key, value)
        return OmegaConf.select(self.cfg, key)

    def refers(self, key: str) -> bool:
        """Whether the value of `key` is an interpolation."""
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(self.cfg, parent) if parent else self.cfg
        return OmegaConf.is_interpolation(node, last)

    __hash__ = object.__hash__


@cache
def parsed(text: str) -> tuple[str, Any]:
    """(key, value) of an override in Hydra's grammar."""
    (override,) = OverridesParser.create().parse_overrides([text])
    if override.is_sweep_override():
        raise UserError(f"{text} sweeps over values: a table's rows are its sweep, give one value")
    return override.key_or_group, override.value()


@cache
def is_value(text: str) -> bool:
    """Whether an override sets an option, rather than choosing in a group, adding or deleting."""
    return VALUE.fullmatch(text) is not None and not (CONF / text.partition("=")[0]).is_dir()


def unchosen(options: dict[str, Any]) -> list[str]:
    """Sets what is still `???` outside the science to null, and names it; raises UserError for the rest."""
    found = missing(options)
    if inside := [key for key in found if key not in OUTSIDE_THE_HASH]:
        raise UserError(f"nothing chosen for {', '.join(inside)}: give a value, for instance {inside[0]}=…")
    for key in found:
        branch_of(options, key)[key.rpartition(".")[2]] = None
    return found


def missing(options: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in options.items():
        if isinstance(value, dict):
            names += missing(value, f"{prefix}{key}.")
        elif value == "???":
            names.append(f"{prefix}{key}")
    return names


def own(options: Any) -> Any:
    """A copy of plain options that its holder may change."""
    if isinstance(options, dict):
        return {key: own(value) for key, value in options.items()}
    return [own(value) for value in options] if isinstance(options, list) else options
