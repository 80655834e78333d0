"""What a sweep varies, in the readable part of its runs' names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from diffprune.config.schema import outside_the_name

NAMED = ("model.name", "pruner.name", "schedule.name")      # of a group's choice, which is in every run's name
# Options that every run's name has, with those below them.
SHOWN = ("dataset", "dataset.name", *NAMED, "seed", "pruner.threshold", "pruner.ratio", "pruner.target", "pruner.scope",
         "pruner.compensate", "pruner/timesteps", "pruner.timesteps", "schedule.rounds")
INEXACT = re.compile(r"(?<==)\d+\.\d{13,}$")       # a number that Hydra's `range` counted in binary fractions


def fixed_keys(words: Sequence[str]) -> list[str]:
    """The options and groups that the command line's `words` give one value, the same for all runs of a sweep."""
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except HydraException:
        return []
    return [one.get_key_element().lstrip("+~") for one in overrides if not one.is_sweep_override()]


def varied(hydra: Any) -> list[str]:
    """The overrides in which a sweep's job differs from the others, by its `hydra` node; numbers as the decimals that were
    meant."""
    fixed = hydra.job.config.override_dirname.exclude_keys
    return [INEXACT.sub(lambda text: f"{float(text[0]):.12g}", text) for text in hydra.overrides.task
            if key_of(text) not in fixed]


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def sweep_words(options: Mapping[str, Any], overrides: Iterable[str]) -> list[str]:
    """What the `overrides` of a run with these `options` change besides what every run's name has: [lr0.0001,
    sampler_celeba]. An option is called by its last part where that tells it apart; options that do not change the result
    have no word."""
    texts = {key: text.partition("=")[2] for text in overrides if names_the_run(key := key_of(text).partition("@")[0])}
    short = {key: key.rpartition(".")[2] for key in texts}
    words = []
    for key, text in texts.items():
        if is_option(options, key):
            name = short[key] if list(short.values()).count(short[key]) == 1 else key
            words.append(f"{name}{shown(value_of(options, key))}")
        elif text not in [value_of(options, name) for name in NAMED]:       # a group's choice
            words.append(f"{key.replace('/', '.')}_{shown(text)}")
    return words


def names_the_run(key: str) -> bool:
    """Whether an option or group changes the result and is not in every run's name."""
    outside = (*SHOWN, *outside_the_name(), "hydra")
    return not any(key == one or key.startswith(f"{one}.") for one in outside if one != "dataset") and key != "dataset"


def is_option(options: Mapping[str, Any], key: str) -> bool:
    """Whether `key` is an option, not a group of options that has choices."""
    return "/" not in key and ("." in key or (key in options and not isinstance(options[key], Mapping)))


def value_of(options: Any, key: str) -> Any:
    """The value of the dotted `key`; None where there is none."""
    for part in key.split("."):
        options = options.get(part) if isinstance(options, Mapping) else None
    return options


def shown(value: Any) -> str:
    """A value in the letters of a file's name: 0.0001, noise0.3_output0.7, 64_64_128, the last part of a path."""
    if isinstance(value, Mapping):
        return "_".join(f"{key}{shown(one)}" for key, one in value.items() if one)
    if isinstance(value, list):
        return "_".join(map(shown, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "_", text)
