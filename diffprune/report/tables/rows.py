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
        """The spread of the values that were measured; None where none was."""
        numbers = [value for value in values if value is not None]
        return cls(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers)) if numbers else None


@dataclass(frozen=True)
class Row:
    """What was measured of one model or configuration; a quantity that was not is absent from `values`. `labels` are further
    cells {column: value}; `published` are others' numbers for the same, {quantity: value}, where there are any."""
    title: str
    values: Mapping[str, Spread]
    labels: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, title: str, measured: list[Numbers], labels: Mapping[str, Any] | None = None,
           published: Mapping[str, float] | None = None) -> "Row":
        """The row over the models in `measured`, each of another seed."""
        spreads = {name: spread for name in dict.fromkeys(name for numbers in measured for name in numbers)
                   if (spread := Spread.of(numbers.get(name) for numbers in measured)) is not None}
        return cls(title, spreads, labels or {}, published or {})

    def mean(self, key: str) -> float | None:
        """The mean over the seeds; None where the quantity was not measured."""
        return self.values[key].mean if key in self.values else None


def states(run: Finished) -> list[Row]:
    """The models of one run that were measured, in the order in which they come about."""
    rows = [Row.of("dense", [dense(run)])] if run.knows_dense else []
    unhealed = scores(run, "before_healing")
    if run.is_trained and (unhealed[distance(run)] is not None or unhealed["ssim"] is not None):
        # Training changes no shapes: sizes and speed stay.
        rows.append(Row.of(run.before_healing, [final(run) | unhealed | unhealed_cost(run)]))
    return rows if run.is_dense else [*rows, Row.of(run.final, [final(run)])]


def distance(run: Finished) -> str:
    """The name of the run's Fréchet distance: distances on different features are different quantities."""
    return f"fid_{run.metrics.features}"


def scores(run: Finished, state: str = "final") -> Numbers:
    """What was measured of the images of the model in that state: "dense", "before_healing" or "final"."""
    measured, features = run.metrics.scores[state], run.metrics.features
    # A metric of the user's own is named by its heading.
    own = {f"{measure['title']} ({features} features) {measure['arrow']}": measured.get(name)
           for name, measure in run.metrics.measures.items()}
    return {measure.name(features): measured.get(measure.key) for measure in MEASURES} | own


def dense(run: Finished) -> Numbers:
    """The dense model as this run measured it; SSIM and speed-up are relative to it, so they are 1 where measured."""
    numbers, speed = scores(run, "dense"), run.metrics.speed
    rate = speed.get("images_per_second_dense")
    if run.is_dense:    # then the final model is the dense one; comparing it with itself says nothing
        own = scores(run) | {measure.name(run.metrics.features): None for measure in MEASURES if measure.to_dense}
        numbers = {name: own[name] if value is None else value for name, value in numbers.items()}
        rate = speed.get("images_per_second") if rate is None else rate
    timed = speed.get("speedup") is not None
    return sizes(run, run.metrics.params_dense, run.metrics.macs_dense) | numbers | {
        "ssim": None if scores(run)["ssim"] is None else 1.0, "images_per_second": rate,
        "speedup": 1.0 if timed else None, "latency_percent": 100.0 if timed else None}


def final(run: Finished) -> Numbers:
    """The model with which the run ends."""
    speedup, cost, seconds = run.metrics.speed.get("speedup"), run.metrics.cost, run.metrics.seconds
    return sizes(run, run.metrics.params, run.metrics.macs) | scores(run) | {
        "healing_macs": cost["compensate"] + cost["finetune"] if cost else None,
        "healing_seconds": seconds.get("finetune", 0.0) if run.is_pruned and seconds else None,
        "images_per_second": run.metrics.speed.get("images_per_second"), "speedup": speedup,
        "latency_percent": 100 / speedup if speedup else None}


def unhealed_cost(run: Finished) -> Numbers:
    """What healing had cost before fine-tuning: compensation alone. None where earlier rounds have fine-tuned too."""
    single, cost = run.options["schedule"].get("rounds", 1) == 1, run.metrics.cost
    return {"healing_macs": cost["compensate"] if cost and single else None, "healing_seconds": 0.0 if single else None}


def compared(run: Finished) -> Numbers:
    """The final model's numbers, and those of the same model before fine-tuning."""
    return final(run) | {f"unhealed_{name}": value for name, value in scores(run, "before_healing").items()}


def sizes(run: Finished, params: int, macs: int) -> Numbers:
    """Parameters and MACs, and their percentage of the dense model's."""
    return {"params": params, "params_percent": 100 * params / run.metrics.params_dense,
            "macs": macs, "macs_percent": 100 * macs / run.metrics.macs_dense}
