"""Runs that differ in nothing but the seed, under the options that tell them from the others."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from diffprune.report.finished import Finished
from diffprune.report.tables.protocol import entries_of

# A configuration is called after the first of these that tell it from the others, then any other option that does.
NAMING = ("dataset.name", "model.name", "pruner.name", "pruner.threshold", "pruner.ratio", "schedule.name",
          "schedule.steps", "sampler.name", "sampler.spacing", "sampler.steps")

T = TypeVar("T")
Named = list[tuple[str, list[Finished]]]    # configurations, each with its runs


def configurations(runs: list[Finished], differing: list[str]) -> Named:
    """Runs whose options agree in all but the seed, by seed, under what tells them apart, and in its order."""
    groups = grouped(sorted((run for run in runs if not run.is_dense), key=lambda run: run.options["seed"]),
                     lambda run: (flat(run.options), entries_of(run, differing)))
    options = [flat(group[0].options) for group in groups]
    keys = distinguishing(options)
    named = [(" ".join([group[0].metrics.pruner if group[0].is_pruned else group[0].final, *name]), group)
             for group, name in zip(groups, titles(options), strict=True)]
    return [named[i] for i in sorted(range(len(named)), key=lambda i: [sortable(options[i].get(key)) for key in keys])]


def titles(options: list[dict[str, Any]]) -> list[list[str]]:
    """`option=value` for each option that tells one of `options` from another, but for the pruner's name."""
    keys = [key for key in distinguishing(options) if key != "pruner.name"]
    return [[f"{key}={own[key]}" for key in keys if key in own] for own in options]


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
