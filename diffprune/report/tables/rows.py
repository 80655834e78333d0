"""Measured numbers: one row per model of a run, or per configuration over its seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from diffprune.report.finished import Finished
from diffprune.report.tables.measures import MEASURES

Numbers = dict[str, float | None]   # {quantity: value}; None where it was not measured


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1 in the denominator; None for a single value) of `n` values."""
    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of those that were measured; None where none was."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Row:
    """What was measured of one model or configuration; a quantity that was not is absent from `values`.

    `published` are others' numbers for the same, {quantity: value}, where any have been seen.
    """
    title: str
    values: Mapping[str, Spread]
    about: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, title: str, measured: list[Numbers], about: Mapping[str, Any] | None = None,
           published: Mapping[str, float] | None = None) -> "Row":
        """Over the models in `measured`, each of another seed."""
        names = dict.fromkeys(name for numbers in measured for name in numbers)
        spreads = {name: Spread.of(numbers.get(name) for numbers in measured) for name in names}
        return cls(title, {name: spread for name, spread in spreads.items() if spread is not None}, about or {},
                   published or {})


def states(run: Finished) -> list[Row]:
    """The models of one run that were measured, in the order in which they come about."""
    rows = [Row.of("dense", [dense(run)])] if run.knows_dense else []
    before = scores(run, "_before_healing")
    if run.is_trained and (before[distance(run)] is not None or before["ssim"] is not None):
        rows.append(Row.of(run.before, [final(run) | before]))      # training changes no shapes: sizes and speed stay
    if not run.is_dense:
        rows.append(Row.of(run.final, [final(run)]))
    return rows


def distance(run: Finished) -> str:
    """The name of the run's Fréchet distance: distances on different features are different quantities."""
    return f"fid_{run.metrics['features']}"


def scores(run: Finished, state: str = "") -> Numbers:
    """What was measured of the images of the model in that state: `_dense`, `_before_healing`, or "" for the final one."""
    known = run.metrics
    return {distance(run): known.get(f"fid{state}"), "ssim": known.get(f"ssim{state}")} | {
        measure.name(known["features"]): known.get(measure.key + state) for measure in MEASURES}


def dense(run: Finished) -> Numbers:
    """The dense model as this run measured it; SSIM and speed-up are relative to it, so they are 1 where measured."""
    known, found = run.metrics, scores(run, "_dense")
    rate = known.get("images_per_second_dense")
    if run.is_dense:    # then the final model is the dense one; comparing it with itself says nothing
        own = scores(run) | {measure.name(known["features"]): None for measure in MEASURES if measure.to_dense}
        found = {name: own[name] if value is None else value for name, value in found.items()}
        rate = known.get("images_per_second") if rate is None else rate
    timed = known.get("speedup") is not None
    return sizes(run, "_dense") | found | {
        "ssim": None if known.get("ssim") is None else 1.0, "images_per_second": rate,
        "speedup": 1.0 if timed else None, "latency_percent": 100.0 if timed else None}


def final(run: Finished) -> Numbers:
    known = run.metrics
    return sizes(run) | scores(run) | {
        "images_per_second": known.get("images_per_second"), "speedup": known.get("speedup"),
        "latency_percent": 100 / known["speedup"] if known.get("speedup") else None}


def compared(run: Finished) -> Numbers:
    """The final model's numbers, with what it was like before healing beside them."""
    return final(run) | {f"unhealed_{name}": value for name, value in scores(run, "_before_healing").items()}


def sizes(run: Finished, state: str = "") -> Numbers:
    out: Numbers = {}
    for name in ("params", "macs"):
        size = run.metrics[name + state]
        out |= {name: size, f"{name}_percent": 100 * size / run.metrics[f"{name}_dense"]}
    return out
