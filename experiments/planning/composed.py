"""Runs' options from their overrides, as Hydra composes them, at the cost of one composition for many.

Composing takes a tenth of a second. Runs that choose the same groups differ in plain values alone, so that their common
part is composed once, and the values are set as the schema's types take them. What that cannot do, Hydra does in full.
"""

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, ValidationError

from diffprune.config.compose import register
from diffprune.config.naming import branch_of
from diffprune.config.schema import Pruner, outside_the_name
from diffprune.runtime.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
PRUNER, CHOICE = re.compile(r"pruner=\w+"), re.compile(r"(dataset|model|schedule|sampler|evaluate|logger)=\w+")
registered = cache(register)
INTEGER = re.compile(r"([a-z_]\w*(?:\.\w+)*)=(0|-?[1-9]\d*)")
VALUE = re.compile(r"[a-z_]\w*(\.\w+)*=.*", re.DOTALL)


def composed(overrides: tuple[str, ...], with_hydra: bool = False, config: str = "config") -> DictConfig:
    """What Hydra composes, for `with_hydra` with its own node; `config` may be one choice of a group."""
    registered()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, list(overrides), return_hydra_config=with_hydra)


class Composer:
    """Options of many runs; remembers what it composed. The choices of `pruners` are composed together, when one is met."""

    def __init__(self, pruners: Iterable[str] = ()) -> None:
        self.names = sorted(name for name in set(pruners) if (CONF / "pruner" / f"{name}.yaml").exists())
        self.bases: dict[tuple[str, ...], Base] = {}
        # One for each set of choices but the pruner's, with the options that these choices give any pruner.
        self.others: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}

    def options(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        """All options, resolved, in a dict of the caller's own; what is not chosen yet is `???`."""
        base = self.base(groups(overrides))
        try:
            return base.with_values([text for text in overrides if is_value(text)])
        except (NotPlain, ValidationError):     # also a mistake, which Hydra names better
            return own(self.base(overrides).options)

    def is_alone(self, key: str, overrides: tuple[str, ...]) -> bool:
        """Whether `key` is a plain value that no other option follows."""
        return self.base(groups(overrides)).is_plain(key)

    def base(self, overrides: tuple[str, ...]) -> "Base":
        if overrides not in self.bases:
            self.bases[overrides] = Base(self.chosen(overrides))
        return self.bases[overrides]

    def chosen(self, overrides: tuple[str, ...]) -> DictConfig:
        """What Hydra composes; where a run differs from another in the pruner alone, only the pruner is put in its place."""
        name = pruner_of(overrides)
        others = tuple(text for text in overrides if not PRUNER.fullmatch(text))
        if name not in self.names or not all(map(CHOICE.fullmatch, others)):
            return composed(overrides)
        if others not in self.others:
            cfg = composed(overrides)
            self.others[others] = cfg, differing(cfg.pruner, self.pruners[name])
            return cfg
        (cfg, given), own = copy.deepcopy(self.others[others]), self.pruners[name]
        cfg.pruner = OmegaConf.merge(own if is_dataclass(OmegaConf.get_type(own)) else OmegaConf.merge(Pruner, own), given)
        return cfg

    @cached_property
    def pruners(self) -> DictConfig:
        """{name: its options} of every pruner that was announced, in one composition."""
        choices = [{f"pruner@{name}": name} for name in self.names]
        ConfigStore.instance().store(name="pruners", node={"defaults": choices})
        return composed((), config="pruners")


def differing(whole: DictConfig, alone: DictConfig) -> dict[str, Any]:
    """The options of a pruner in a composition that differ from the pruner's own."""
    of_whole, of_own = (OmegaConf.to_container(cfg, resolve=False) for cfg in (whole, alone))
    return {key: value for key, value in of_whole.items() if of_own.get(key, "???") != value}


def pruner_of(overrides: Iterable[str]) -> str | None:
    """The choice of a pruner among overrides."""
    return next((text.partition("=")[2] for text in overrides if PRUNER.fullmatch(text)), None)


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
            branch_of(options, key)[key.rpartition(".")[2]] = own(self.typed(text))
        return options

    @cache    # noqa: B019  (a base lives as long as its composer)
    def typed(self, text: str) -> Any:
        """The value of `key=value` as the schema's type of `key` takes it."""
        key, value = parsed(text)
        parts = value if isinstance(value, list) else [value]
        if not self.is_plain(key) or any(isinstance(part, dict | list) for part in parts) or "${" in str(value):
            raise NotPlain(text)
        OmegaConf.update(self.cfg, key, value)
        taken = OmegaConf.select(self.cfg, key)
        return OmegaConf.to_container(taken) if isinstance(taken, ListConfig) else taken

    @cache    # noqa: B019
    def is_plain(self, key: str) -> bool:
        """Whether `key` has a value that no other follows, and that follows none."""
        branch, last = branch_of(self.options, key), key.rpartition(".")[2]
        if last not in branch or isinstance(branch[last], dict | list):
            return False
        return not re.search(rf"\b{re.escape(key)}\b", self.interpolations) and not self.refers(key)

    def refers(self, key: str) -> bool:
        """Whether the value of `key` is an interpolation."""
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(self.cfg, parent) if parent else self.cfg
        return OmegaConf.is_interpolation(node, last)

    __hash__ = object.__hash__


parser = cache(OverridesParser.create)


@cache
def parsed(text: str) -> tuple[str, Any]:
    """(key, value) of an override in Hydra's grammar."""
    if whole := INTEGER.fullmatch(text):      # as every seed is: what the grammar makes of it, a hundred times as fast
        return whole[1], int(whole[2])
    (override,) = parser().parse_overrides([text])
    if override.is_sweep_override():
        raise UserError(f"{text} sweeps over values: a table's rows are its sweep, give one value")
    return override.key_or_group, override.value()


def groups(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides that choose, add or delete, rather than set a value."""
    return tuple(text for text in overrides if not is_value(text))


@cache
def is_value(text: str) -> bool:
    """Whether an override sets an option, rather than choosing in a group, adding or deleting."""
    return VALUE.fullmatch(text) is not None and not (CONF / text.partition("=")[0]).is_dir()


def unchosen(options: dict[str, Any]) -> list[str]:
    """Sets what is still `???` outside the science to null, and names it; raises UserError for the rest."""
    found = missing(options)
    if inside := [key for key in found if key not in outside_the_name()]:
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
