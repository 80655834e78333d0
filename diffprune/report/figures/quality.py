"""Quality against what it costs and against what was asked for, from the rows of the comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffprune.report.figures.chart import DENSE, Absent, Chart, Dots, Figure, Series
from diffprune.report.finished import Finished
from diffprune.report.tables.comparison import dense_rows
from diffprune.report.tables.configurations import configurations, flat, grouped, titles
from diffprune.report.tables.protocol import entries_of, made_with
from diffprune.report.tables.quantities import MAIN, Quantity, quality
from diffprune.report.tables.rows import Numbers, Row, compared

WIDE = 8        # values that span so much have a logarithmic axis, on which small ones' differences show
MACS, LATENCY, HEALING, SECONDS = "macs", "latency_percent", "healing_macs", "healing_seconds"
COSTS = {MACS: ("MACs", "MACs [G], one evaluation of one image", 1e-9),
         LATENCY: ("measured latency", "measured latency [% of dense]", 1.0),
         HEALING: ("the cost of healing", "MACs of compensation and fine-tuning, teachers included [T]", 1e-12),
         SECONDS: ("the time of fine-tuning", "seconds of fine-tuning, on the machine of each run", 1.0)}
ONE_PLACE = 1.03        # costs that differ by less are one: against them nothing can be seen
OPTIONS = {"pruner.ratio": "nominal ratio (asked for)", "pruner.threshold": "threshold T"}
SPREAD = "Mean over seeds; bars are one standard deviation."
NOTES = {LATENCY: " Dense and pruned model took turns in one process, so that a busy machine slows both alike.",
         "pruner.ratio": " The ratio is what was asked for; the table has the sizes that came out."}


@dataclass(frozen=True)
class Point:
    """One configuration's numbers, its runs' options, and the family it is drawn with; dense models have no options. `seeds`
    has the numbers of each run."""
    row: Row
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[Numbers] = ()

    def without(self, option: str) -> dict[str, Any]:
        """All its options but this one."""
        return {key: value for key, value in self.options.items() if key != option}


def quality_charts(runs: list[Finished], differing: list[str]) -> list[Figure | Absent]:
    """What there is to draw of Fréchet distance and SSIM: against MACs, latency, ratio and threshold; a row for each
    configuration where all have the same MACs."""
    points = [*(Point(row, "dense") for row in dense_rows(runs, differing)), *(
        Point(Row.of(title, [compared(run) for run in group]), family(group[0], differing), flat(group[0].options),
              [compared(run) for run in group]) for title, group in configurations(runs, differing))]
    shown = [one for one in quality({key for point in points for key in point.row.values}) if one.level == MAIN]
    known = [cost for cost in COSTS if cost in (MACS, LATENCY) or any(cost in point.row.values for point in points)]
    if one_place(points, HEALING):
        known = [cost for cost in known if cost != SECONDS]     # what differs is the machine
    charts: list[Figure | Absent] = [
        *(by_configuration(points, quantity) for quantity in shown if one_place(points, MACS)),
        *(against_cost(points, quantity, cost) for cost in known if not one_place(points, cost) for quantity in shown),
        *(against_option(points, quantity, option) for option in OPTIONS for quantity in shown)]
    return [replace(chart, made=made_with(runs)) if isinstance(chart, Figure) else chart for chart in charts]


def one_place(points: list[Point], cost: str) -> bool:
    """Whether all of several configurations have about the same cost."""
    values = [point.row.values[cost].mean for point in points if point.family != "dense" and cost in point.row.values]
    return len(values) > 1 and max(values) <= ONE_PLACE * min(values)


def by_configuration(points: list[Point], quantity: Quantity) -> Dots | Absent:
    """A row for each configuration, the best first, with every seed; the dense model as a line."""
    title, kept = f"{plain(quantity)} of each configuration", [point for point in points if quantity.key in point.row.values]
    rows = sorted((point for point in kept if point.family != "dense"), reverse=quantity.arrow == "↑",
                  key=lambda point: point.row.values[quantity.key].mean)
    if not rows:
        return Absent(title, "no configuration but the dense model has it")
    dense = [point.row.values[quantity.key].mean for point in kept if point.family == "dense"]
    means = [point.row.values[quantity.key].mean for point in kept]
    words, more = in_words(kept, quantity)
    caption = f"All have the same MACs. A dot is a seed, a bar their mean{', the line the dense model' if dense else ''}."
    lines = [(point.row.title, [value * quantity.scale for numbers in point.seeds
                                if (value := numbers.get(quantity.key)) is not None], None) for point in rows]
    return Dots(f"{quantity.key.replace('_', '-')}-configurations", title, caption,
                f"{title}. {'; '.join(words)}{more}.", quantity.title, lines, wide(means),
                dense=dense[0] if len(dense) == 1 else None)


def family(run: Finished, differing: list[str]) -> str:
    """The criterion, and the parts of the protocol that are not everybody's."""
    name = run.metrics.pruner if run.is_pruned else run.final
    return " ".join([name, *(f"{key}={value}" for key, value in entries_of(run, differing).items() if value is not None)])


def against_cost(points: list[Point], quantity: Quantity, cost: str) -> Chart | Absent:
    """One point per configuration, with the spread over its seeds."""
    kept = [point for point in points if quantity.key in point.row.values and cost in point.row.values]
    word, axis, scale = COSTS[cost]
    title = f"{plain(quantity)} against {word}"
    if all(point.family == "dense" for point in kept):
        return Absent(title, "no configuration but the dense model has both numbers")
    series = []
    for members in grouped(kept, lambda point: point.family):
        spreads = [point.row.values[cost] for point in members]
        name = members[0].family
        series.append(series_of(
            name, members, quantity, [spread.mean * scale for spread in spreads], colours(kept)[name],
            x_error=[spread.std * scale if spread.std else None for spread in spreads]))
    return chart_of(cost, cost.removesuffix("_percent").replace("_", "-"), title, axis, quantity, kept, series,
                    lambda row: f" at {row.values[cost].mean * scale:.3g}")


def against_option(points: list[Point], quantity: Quantity, option: str) -> Chart | Absent:
    """A curve for each set of configurations that differ in `option` alone."""
    kept = [point for point in points if quantity.key in point.row.values and point.options.get(option) is not None
            and point.options.get("pruner.ratio")]
    curves = [sorted(curve, key=lambda point: point.options[option])
              for curve in grouped(kept, lambda point: [point.family, point.without(option)]) if len(curve) > 1]
    word = option.rpartition(".")[2]
    title = f"{plain(quantity)} against the {word}"
    if not curves:
        return Absent(title, f"no two configurations differ in {option} alone")
    names = [" ".join([curve[0].family, *rest]) for curve, rest in
             zip(curves, titles([curve[0].without(option) for curve in curves]), strict=True)]
    own = len({curve[0].family for curve in curves}) == len(curves)     # then each has its family's colour
    series = [series_of(name, curve, quantity, [float(point.options[option]) for point in curve],
                        colours(points)[curve[0].family] if own else i, line=True)
              for i, (name, curve) in enumerate(zip(names, curves, strict=True))]
    return chart_of(option, word, title, OPTIONS[option], quantity, [point for curve in curves for point in curve], series)


def chart_of(x: str, word: str, title: str, axis: str, quantity: Quantity, kept: list[Point], series: list[Series],
             place: Callable[[Row], str] = lambda row: "") -> Chart:
    """The chart of these points."""
    words, more = in_words(kept, quantity, place)
    values = [point.row.values[quantity.key].mean for point in kept]
    return Chart(f"{quantity.key.replace('_', '-')}-{word}", title, SPREAD + NOTES.get(x, ""),
                 f"{title}. {'; '.join(words)}{more}.", axis, quantity.title, series,
                 log_y=wide(values))


def wide(values: Sequence[float]) -> bool:
    """Whether the values call for a logarithmic axis."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def in_words(kept: list[Point], quantity: Quantity, place: Callable[[Row], str] = lambda row: "") -> tuple[list[str], str]:
    """The first dozen of the points, each with its `place` along the axis, and how many more there are."""
    words = [f"{point.row.title} {quantity.cell(point.row)}{place(point.row)}" for point in kept]
    return words[:12], f"; and {len(words) - 12} more, all in the table" if len(words) > 12 else ""


def colours(points: list[Point]) -> dict[str, int]:
    """{family: its colour}, in order of appearance"""
    names = dict.fromkeys(point.family for point in points if point.family != "dense")
    return {"dense": DENSE} | {name: colour for colour, name in enumerate(names)}


def series_of(name: str, members: Sequence[Point], quantity: Quantity, x: list[float], colour: int, line: bool = False,
              x_error: Sequence[float | None] = ()) -> Series:
    spreads = [point.row.values[quantity.key] for point in members]
    return Series(name, x, [spread.mean * quantity.scale for spread in spreads],
                  [f"{point.row.title}: {quantity.cell(point.row)}" for point in members], x_error,
                  [spread.std for spread in spreads], colour, line)


def plain(quantity: Quantity) -> str:
    """The quantity's name without its arrow."""
    return quantity.title.rstrip(" ↑↓")
