"""Many finished runs side by side: one row per configuration, over its seeds, the dense model first."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any, TypeVar

from diffprune.report.finished import Finished
from diffprune.report.tables.published import Published
from diffprune.report.tables.quantities import REPORT
from diffprune.report.tables.rows import Numbers, Row, compared, dense
from diffprune.report.tables.table import Table, listed
from diffprune.runtime.errors import UserError

# A configuration is called after the first of these that tell it from the others, then any other option that does.
NAMING = ("dataset.name", "model.name", "pruner.name", "pruner.threshold", "pruner.ratio", "schedule.name",
          "schedule.steps", "sampler.name", "sampler.spacing", "sampler.steps")
UNTRAINED = ("ema",)    # what of a run's protocol does not apply to the dense model it started from
# Parts that a run may lack and agree with any value: it was not trained, or it is older than they are (the last three say
# how KID, precision and recall were made, which such a run has none of).
MAY_LACK = (*UNTRAINED, "features_sha256", "subset", "kid_subset", "neighbours")
UNLESS_STATED = {"guidance": 1.0}       # what the absence of a part means

T = TypeVar("T")


def compare(runs: list[Finished], mixed_protocols: bool = False, level: int = REPORT,
            published: Published | None = None) -> Table:
    """The comparison of `runs`; with `mixed_protocols`, what differs in the protocols becomes columns.

    `level` MAIN leaves out what is measured beside Fréchet distance, SSIM, sizes and speed. `published` numbers stand
    beside those they belong to.

    Raises UserError for the same run twice and, without `mixed_protocols`, for runs under different protocols.
    """
    check_distinct(runs)
    differing = protocol_differences(runs)
    if differing and not mixed_protocols:
        raise UserError(f"these runs were made under different protocols ({sentence(differing)}), so their numbers do "
                        "not compare: name fewer runs, or add --mixed-protocols to see them with what differs")
    rows = [*dense_rows(runs, list(differing), published), *configuration_rows(runs, list(differing), published)]
    return listed(rows, [name for name in differing if name != "features"], level)


def check_distinct(runs: list[Finished]) -> None:
    """Refuses two folders that hold the same experiment with the same seed, which must not count twice."""
    for twins in grouped(runs, lambda run: run.options):
        if len(twins) > 1:
            raise UserError(f"{twins[0].run.folder} and {twins[1].run.folder} hold the same run: name one of them")


def protocol_differences(runs: list[Finished]) -> dict[str, list[Any]]:
    """{part of the protocol: its values}, for the parts that differ.

    That a run lacks a part, or states it as null, is a value too, None, but for the parts in MAY_LACK.
    """
    names = dict.fromkeys(name for run in runs for name in protocol_of(run))
    statements = [parts_of(run, list(names)) for run in runs]
    lacking = {name: [None] for name in names if name not in MAY_LACK and any(own[name] is None for own in statements)}
    found = {name: [*values, *lacking.get(name, [])] for name, values in collected(statements).items()}
    return {name: values for name, values in found.items() if len(values) > 1}


def version_differences(runs: list[Finished]) -> dict[str, list[Any]]:
    """{library: its versions}, for the libraries whose version differs."""
    return differences([versions_of(run) for run in runs])


def versions_of(run: Finished) -> dict[str, str]:
    return run.metrics.get("versions", {})


def differences(statements: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: values for name, values in collected(statements).items() if len(values) > 1}


def collected(statements: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """{name: its distinct values but null} over all statements."""
    values: dict[str, list[Any]] = defaultdict(list)
    for statement in statements:
        for name, value in statement.items():
            if value is not None and value not in values[name]:
                values[name].append(value)
    return values


def sentence(differing: dict[str, list[Any]]) -> str:
    def text(value: Any) -> str:
        return "not stated" if value is None else str(value)
    return "; ".join(f"{name} is {' or '.join(map(text, values))}" for name, values in differing.items())


def dense_rows(runs: list[Finished], differing: list[str], published: Published | None = None) -> list[Row]:
    """The unpruned, untrained model of each (data set, model, protocol), from every run that measured it.

    Runs of one seed repeat a measurement, which counts once, as their mean. All of them drew the same images with the model,
    so equal distances are one measurement, not several seeds.
    """
    def model(run: Finished) -> dict[str, Any]:
        return {key: flat(run.options)[key] for key in ("dataset.name", "model.name", "model.checkpoint")}

    def protocol(run: Finished) -> dict[str, Any]:
        return {name: None if name in UNTRAINED else value for name, value in parts_of(run, differing).items()}

    groups = grouped([run for run in runs if run.knows_dense], lambda run: (model(run), protocol(run)))
    names = titles([model(group[0]) for group in groups])
    return [Row.of(" ".join(["dense", *name]), once_each(per_seed(group)), protocol(group[0]),
                   published.dense(group[0]) if published else None)
            for name, group in zip(names, groups, strict=True)]


def per_seed(runs: list[Finished]) -> list[Numbers]:
    """The dense model as the runs of each seed measured it: the mean of a quantity's distinct values."""
    found = []
    for same in grouped(runs, lambda run: run.options["seed"]):
        measured = [dense(run) for run in same]
        values = {name: {one[name] for one in measured if one.get(name) is not None}
                  for name in dict.fromkeys(name for one in measured for name in one)}
        found.append({name: fmean(distinct) if distinct else None for name, distinct in values.items()})
    return found


def once_each(measured: list[Numbers]) -> list[Numbers]:
    """The same measurements, each distinct value of a quantity kept only where it first appears."""
    seen: set[tuple[str, float | None]] = set()
    kept: list[Numbers] = []
    for numbers in measured:
        kept.append({name: value for name, value in numbers.items() if (name, value) not in seen})
        seen.update(numbers.items())
    return kept


def configuration_rows(runs: list[Finished], differing: list[str], published: Published | None = None) -> list[Row]:
    """One row per configuration."""
    return [Row.of(title, [compared(run) for run in group], parts_of(group[0], differing),
                   published.of(group[0]) if published else None)
            for title, group in configurations(runs, differing)]


def configurations(runs: list[Finished], differing: list[str]) -> list[tuple[str, list[Finished]]]:
    """Runs whose options agree in all but the seed, by seed, under what tells them apart, and in its order."""
    groups = grouped(sorted((run for run in runs if not run.is_dense), key=lambda run: run.options["seed"]),
                     lambda run: (without_seed(run.options), parts_of(run, differing)))
    options = [flat(without_seed(group[0].options)) for group in groups]
    keys = distinguishing(options)
    named = [(" ".join([group[0].metrics["pruner"] if group[0].is_pruned else group[0].final, *name]), group)
             for group, name in zip(groups, titles(options), strict=True)]
    order = sorted(range(len(named)), key=lambda i: [sortable(options[i].get(key)) for key in keys])
    return [named[i] for i in order]


def titles(options: list[dict[str, Any]]) -> list[list[str]]:
    """`option=value` for each option that tells one of `options` from another, but for the pruner's name."""
    keys = [key for key in distinguishing(options) if key != "pruner.name"]
    return [[f"{key}={own[key]}" for key in keys if key in own] for own in options]


def distinguishing(options: list[dict[str, Any]]) -> list[str]:
    """The keys, most telling first, that together tell all of `options` apart, and no key that adds nothing."""
    chosen: list[str] = []
    known = {key for own in options for key in own}
    for key in [*(key for key in NAMING if key in known), *sorted(known.difference(NAMING))]:
        if kinds(options, [*chosen, key]) > kinds(options, chosen):
            chosen.append(key)
    return chosen


def kinds(options: list[dict[str, Any]], keys: list[str]) -> int:
    return len({canonical([own.get(key) for key in keys]) for own in options})


def protocol_of(run: Finished) -> dict[str, Any]:
    """The run's protocol, the kind of features its images are compared on included."""
    return {"features": run.metrics["features"], **run.metrics["protocol"]}


def parts_of(run: Finished, names: list[str]) -> dict[str, Any]:
    """Those parts of the run's protocol; where it does not state one, what that means, else None."""
    stated = {name: value for name, value in protocol_of(run).items() if value is not None}
    return {name: stated.get(name, UNLESS_STATED.get(name)) for name in names}


def without_seed(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "seed"}


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{`group.option`: value}"""
    out: dict[str, Any] = {}
    for name, value in options.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, "" if number else str(value)


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """Items of equal key together, in order of first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(canonical(key(item)), []).append(item)
    return list(groups.values())
