"""Quality against what it costs and against what was asked for, from the rows of the comparison."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffprune.report.figures.chart import DENSE, Absent, Chart, Series
from diffprune.report.finished import Finished
from diffprune.report.tables.comparison import dense_rows
from diffprune.report.tables.configurations import configurations, flat, grouped, titles, without_seed
from diffprune.report.tables.protocol import parts_of
from diffprune.report.tables.quantities import MAIN, Quantity, features_in, quality
from diffprune.report.tables.rows import Row, compared

WIDE = 8
MACS, LATENCY = "macs", "latency_percent"
COSTS = {MACS: ("MACs", "MACs [G], one evaluation of one image", 1e-9),
         LATENCY: ("measured latency", "measured latency [% of dense]", 1.0)}
OPTIONS = {"pruner.ratio": "nominal ratio (asked for)", "pruner.threshold": "threshold T"}


@dataclass(frozen=True)
class Point:
    """One configuration's numbers, its runs' options, and the family it is drawn with; dense models have no options."""
    row: Row
    options: dict[str, Any]
    family: str


def quality_charts(runs: list[Finished], differing: list[str]) -> list[Chart | Absent]:
    """What there is to draw of Fréchet distance and SSIM: against MACs, latency, ratio and threshold."""
    found = points(runs, differing)
    known = {key for point in found for key in point.row.values}
    shown = [quantity for quantity in quality(features_in(known), known) if quantity.level == MAIN]
    return [*(against_cost(found, quantity, cost) for cost in COSTS for quantity in shown),
            *(against_option(found, quantity, option) for option in OPTIONS for quantity in shown)]


def points(runs: list[Finished], differing: list[str]) -> list[Point]:
    """The dense models first, then every configuration."""
    dense = [Point(row, {}, "dense") for row in dense_rows(runs, differing)]
    return dense + [Point(Row.of(title, [compared(run) for run in group]), flat(without_seed(group[0].options)),
                          family(group[0], differing)) for title, group in configurations(runs, differing)]


def family(run: Finished, differing: list[str]) -> str:
    """The criterion, and the parts of the protocol that are not everybody's."""
    name = run.metrics["pruner"] if run.is_pruned else run.final
    return " ".join([name, *(f"{key}={value}" for key, value in parts_of(run, differing).items() if value is not None)])


def against_cost(found: list[Point], quantity: Quantity, cost: str) -> Chart | Absent:
    """One point per configuration, with the spread over its seeds."""
    kept = [point for point in found if quantity.key in point.row.values and cost in point.row.values]
    name, axis, scale = COSTS[cost]
    short = plain(quantity.title)
    title = f"{short} against {name}"
    if all(point.family == "dense" for point in kept):
        return Absent(title, "no configuration but the dense model has both numbers")
    return Chart(
        f"{short_key(quantity)}-{cost.removesuffix('_percent')}", title,
        "Mean over seeds; bars are one standard deviation." + (
            " Dense and pruned model took turns in one process, so that a busy machine slows both alike."
            if cost == LATENCY else ""),
        f"{short} against {name}. " + in_words(kept, quantity, lambda row: f"{row.values[cost].mean * scale:.3g}"),
        axis, quantity.title,
        log_y=wide([point.row.values[quantity.key].mean for point in kept]), series=[
         series_of(members, quantity, lambda row: row.values[cost].mean * scale, cost, scale, colour)
         for colour, members in families(kept)])


def against_option(found: list[Point], quantity: Quantity, option: str) -> Chart | Absent:
    """A curve for each set of configurations that differ in `option` alone."""
    kept = [point for point in found if quantity.key in point.row.values and point.options.get(option) is not None
            and point.options.get("pruner.ratio")]
    curves = [sorted(curve, key=lambda point: point.options[option]) for curve in grouped(
        kept, lambda point: [point.family, {key: value for key, value in point.options.items() if key != option}])]
    curves = [curve for curve in curves if len(curve) > 1]
    short, word = plain(quantity.title), option.rpartition(".")[2]
    if not curves:
        return Absent(f"{short} against the {word}", f"no two configurations differ in {option} alone")
    names = [" ".join([curve[0].family, *rest]) for curve, rest in zip(curves, titles(
        [{key: value for key, value in curve[0].options.items() if key != option} for curve in curves]), strict=True)]
    names = [name.replace("pruner.", "") for name in names]
    own = len({curve[0].family for curve in curves}) == len(curves)     # then each has its family's colour
    colours = {members[0].family: colour for colour, members in families(found)}
    return Chart(
        f"{short_key(quantity)}-{word}", f"{short} against the {word}", "Mean over seeds; bars are one standard deviation."
        + (" The ratio is what was asked for; the table has the sizes that came out." if word == "ratio" else ""),
        f"{short} against the {word}. " + in_words([point for curve in curves for point in curve], quantity, lambda _: ""),
        OPTIONS[option], quantity.title,
        log_y=wide([point.row.values[quantity.key].mean for curve in curves for point in curve]), series=[
         series_of(curve, quantity, None, option, 1.0, colours[curve[0].family] if own else i, names[i])
         for i, curve in enumerate(curves)])


def wide(values: list[float]) -> bool:
    """Whether values span so much that a linear axis would hide the small ones' differences."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def families(kept: list[Point]) -> Iterator[tuple[int, list[Point]]]:
    """Points of one family together, with its colour."""
    colour = 0
    for members in grouped(kept, lambda point: point.family):
        dense = members[0].family == "dense"
        yield (DENSE if dense else colour), members
        colour += not dense


def series_of(members: Sequence[Point], quantity: Quantity, place: Callable[[Row], float] | None, x: str, scale: float,
          colour: int, name: str | None = None) -> Series:
    """A series; `x` is the quantity or option along the axis, `place` says where a row lies, by default at its option."""
    rows = [point.row for point in members]
    at = [place(point.row) if place else float(point.options[x]) for point in members]
    spreads = [row.values.get(x) for row in rows]
    return Series(
        name or members[0].family, at, [row.values[quantity.key].mean * quantity.scale for row in rows],
        [f"{row.title}: {quantity.cell(row)}" for row in rows],
        [spread.std * scale if spread is not None and spread.std else None for spread in spreads],
        [row.values[quantity.key].std for row in rows], colour, line=place is None)


def in_words(kept: list[Point], quantity: Quantity, place: Callable[[Row], str]) -> str:
    """The points in words, the first dozen of them."""
    words = [f"{point.row.title} {quantity.cell(point.row)}" + (f" at {place(point.row)}" if place(point.row) else "")
             for point in kept]
    more = f"; and {len(words) - 12} more, all in the table" if len(words) > 12 else ""
    return "; ".join(words[:12]) + more + "."


def plain(title: str) -> str:
    """A quantity's name without its arrow."""
    return title.rstrip(" ↑↓")


def short_key(quantity: Quantity) -> str:
    return quantity.key.replace("_", "-")
