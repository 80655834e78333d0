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
    before = before_healing(run)
    if run.is_trained and (before[distance(run)] is not None or before["ssim"] is not None):
        rows.append(Row.of(run.before, [before]))
    if not run.is_dense:
        rows.append(Row.of(run.final, [final(run)]))
    return rows


def distance(run: Finished) -> str:
    """The quantity that a run's Fréchet distance is: distances on different features are different quantities."""
    return f"fid_{run.metrics['features']}"


def further(run: Finished, state: str = "") -> Numbers:
    """The measures of the model in that state (`_dense`, `_before_healing`, or nothing for the final one)."""
    return {measure.name(run.metrics["features"]): run.metrics.get(measure.key + state) for measure in MEASURES}


def of_dense(run: Finished) -> Numbers:
    """The measures of the dense model; where it is the final one, those that do not compare it with itself."""
    own = {measure.name(run.metrics["features"]): run.metrics.get(measure.key) for measure in MEASURES
           if run.is_dense and not measure.to_dense}
    return further(run, "_dense") | {name: value for name, value in own.items() if value is not None}


def dense(run: Finished) -> Numbers:
    """The dense model as this run measured it; SSIM and speed-up are relative to it, so they are 1 where measured."""
    known = run.metrics
    fid, rate = known.get("fid_dense"), known.get("images_per_second_dense")
    if run.is_dense:
        fid = known["fid"] if fid is None else fid
        rate = known.get("images_per_second") if rate is None else rate
    return sizes(run, known["params_dense"], known["macs_dense"]) | of_dense(run) | {
        distance(run): fid, "ssim": None if known.get("ssim") is None else 1.0, "images_per_second": rate,
        "speedup": None if known.get("speedup") is None else 1.0,
        "latency_percent": None if known.get("speedup") is None else 100.0}


def final(run: Finished) -> Numbers:
    known = run.metrics
    return sizes(run, known["params"], known["macs"]) | further(run) | {
        distance(run): known["fid"], "ssim": known.get("ssim"),
        "images_per_second": known.get("images_per_second"), "speedup": known.get("speedup"),
        "latency_percent": 100 / known["speedup"] if known.get("speedup") else None}


def compared(run: Finished) -> Numbers:
    """The final model's numbers, with what it was like before healing beside them."""
    known = run.metrics
    unhealed = further(run, "_before_healing") | {distance(run): known.get("fid_before_healing"),
                                                  "ssim": known.get("ssim_before_healing")}
    return final(run) | {f"unhealed_{name}": value for name, value in unhealed.items()}


def before_healing(run: Finished) -> Numbers:
    """Training changes no shapes: sizes and speed are the final model's."""
    return final(run) | further(run, "_before_healing") | {
        distance(run): run.metrics.get("fid_before_healing"), "ssim": run.metrics.get("ssim_before_healing")}


def sizes(run: Finished, params: int, macs: int) -> Numbers:
    return {"params": params, "params_percent": 100 * params / run.metrics["params_dense"],
            "macs": macs, "macs_percent": 100 * macs / run.metrics["macs_dense"]}
