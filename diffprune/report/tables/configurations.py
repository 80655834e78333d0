"""Runs that differ in nothing but the seed, under the options that tell them from the others."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from diffprune.report.finished import Finished
from diffprune.report.tables.protocol import entries_of

# A configuration is called after the first of these that tell it from the others, then any other option that does. A policy
# comes before the threshold, which it replaces.
NAMING = ("dataset.name", "model.name", "pruner.name", "pruner.timesteps", "pruner.threshold", "pruner.ratio",
          "schedule.name", "schedule.steps", "sampler.name", "sampler.spacing", "sampler.steps")
PLAIN = (None, "none", False)       # values that go without saying: an option that is not used
MOST_WORDS = 5      # entries of a component (`_target_` and its parameters) that is named in one word with them

T = TypeVar("T")
Named = list[tuple[str, list[Finished]]]    # configurations, each with its runs


def configurations(runs: list[Finished], differing: list[str]) -> Named:
    """Runs whose options agree in all but the seed, by seed, under what tells them apart, and in its order."""
    groups = grouped(sorted((run for run in runs if not run.is_dense), key=lambda run: run.options["seed"]),
                     lambda run: (flat(run.options), entries_of(run, differing)))
    options = [in_words(flat(group[0].options)) for group in groups]
    keys = distinguishing(options)
    named = [(" ".join([group[0].metrics.pruner if group[0].is_pruned else group[0].final, *name]), group)
             for group, name in zip(groups, titles(options), strict=True)]
    return [named[i] for i in sorted(range(len(named)), key=lambda i: [sortable(options[i].get(key)) for key in keys])]


def titles(options: list[dict[str, Any]]) -> list[list[str]]:
    """What tells one of `options` from another, but for the pruner's name: `ratio=0.3` for each telling option that it has,
    the value alone where the option is a name. Options that only a whole key tells apart have whole keys."""
    options = [in_words(own) for own in options]
    keys = [key for key in distinguishing(options) if key != "pruner.name"]
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: key if ends.count(end) > 1 and end != "name" else end for key, end in zip(keys, ends, strict=True)}
    names = [[said(short[key], own[key]) for key in keys if key in own and needed(key, own, options)] for own in options]
    pairs = [(own.get("pruner.name"), name) for own, name in zip(options, names, strict=True)]
    return [pair[1] if pairs.count(pair) == 1 else [f"{key}={own[key]}" for key in keys if key in own]
            for own, pair in zip(options, pairs, strict=True)]


def in_words(options: dict[str, Any]) -> dict[str, Any]:
    """Flat options in which a small component is one entry: `pruner.timesteps: window 0 499`."""
    out = dict(options)
    for key in [key for key in options if key.endswith("._target_") and key.count(".") > 1]:
        parent = key.removesuffix("_target_")
        parts = [name for name in options if name.startswith(parent)]
        if len(parts) <= MOST_WORDS:
            values = [out.pop(name) for name in parts if name != key]
            out[parent[:-1]] = " ".join([out.pop(key).rpartition(".")[2].lower(), *map(str, values)])
    return out


def needed(key: str, own: dict[str, Any], options: list[dict[str, Any]]) -> bool:
    """Whether a row says this option. Nobody says what goes without saying, and the criterion only those whose pruner's name
    stands for several."""
    criteria = {str(one.get(key)) for one in options if one.get("pruner.name") == own.get("pruner.name")}
    return (own[key] not in PLAIN or key == "schedule.name") and (key != "pruner.criterion" or len(criteria) > 1)


def said(option: str, value: Any) -> str:
    """The option as a row says it; a name says itself."""
    return f"{option}={value}" if option != "name" else "not fine-tuned" if value in PLAIN else str(value)


def distinguishing(options: list[dict[str, Any]]) -> list[str]:
    """The keys, most telling first, that together tell all of `options` apart, and no key that adds nothing."""
    chosen: list[str] = []
    given = {key for own in options for key in own}
    for key in [*(key for key in NAMING if key in given), *sorted(given.difference(NAMING))]:
        with_it, without = (grouped(options, lambda own, keys=keys: [own.get(key) for key in keys])
                            for keys in ([*chosen, key], chosen))
        if len(with_it) > len(without):
            chosen.append(key)
    return chosen


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{`group.option`: value}, without the run's seed."""
    out: dict[str, Any] = {}
    for name, value in options.items():
        if prefix or name != "seed":
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, "" if number else str(value)


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """Items of equal key together, in order of first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(json.dumps(key(item), sort_keys=True), []).append(item)
    return list(groups.values())
