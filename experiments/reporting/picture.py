"""The picture of a table: every row's numbers with their spread, or a curve over the table's axis."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffprune.report.figures.svg import SVG_METADATA
from diffprune.report.tables.quantities import Quantity, features_in, quantities
from experiments.planning.declarations import Table
from experiments.reporting.against_published import Line

OURS, THEIRS, SERIES = "#0072b2", "#b84e00", ("#0072b2", "#009e73", "#cc79a7", "#e69f00")     # Okabe and Ito
LOOK = {"svg.fonttype": "none", "svg.hashsalt": "diffprune", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#dde0e5", "axes.axisbelow": True,
        "legend.frameon": False, "figure.facecolor": "white"}
WIDTH, HEIGHT = 4.8, 3.2        # inches, of each quantity's axes
DPI = 144       # of the PNG


def picture(table: Table, lines: Sequence[Line]) -> tuple[bytes, bytes] | None:
    """The figure as (SVG, PNG), equal for equal numbers; None where nothing is measured."""
    wanted = [one for name in table.figure.get("y", ()) for one in named(name, lines)
              if any(line.ours(one) for line in lines)]
    if not wanted:
        return None
    vectors, pixels = io.BytesIO(), io.BytesIO()
    with rc_context(LOOK):
        figure = Figure((WIDTH * len(wanted), HEIGHT), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
            if "x" in table.figure:
                curve(axes, table.figure["x"], quantity, lines)
            else:
                dots(axes, quantity, lines)
        figure.savefig(vectors, format="svg", metadata=SVG_METADATA)
        figure.savefig(pixels, format="png", dpi=DPI, metadata={"Software": None})
    return vectors.getvalue(), pixels.getvalue()


def named(name: str, lines: Sequence[Line]) -> list[Quantity]:
    """The quantities that a table calls `name`: one for each kind of features where it depends on them."""
    rows = [line.measured for line in lines]
    known = quantities(rows)
    names = {name, *(f"{name}_{kind}" for kind in features_in({one.key for one in known}))}
    return [one for one in known if one.key in names]


def dots(axes: Axes, quantity: Quantity, lines: Sequence[Line]) -> None:
    """One line per row, from above: each seed a dot, the mean a bar, the published number a cross."""
    for at, line in enumerate(lines):
        values = [known[quantity.key] for known in line.numbers if known.get(quantity.key) is not None]
        if values:
            axes.plot(values, [at] * len(values), "o", color=OURS, alpha=0.5, markersize=5, markeredgewidth=0)
            axes.plot([line.ours(quantity).mean], [at], "|", color=OURS, markersize=14, markeredgewidth=2)
        if line.theirs(quantity) is not None:
            axes.plot([line.theirs(quantity)], [at], "x", color=THEIRS, markersize=6)
    axes.set_yticks(range(len(lines)), [line.row.title for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set(xlabel=quantity.title)
    means = [line.ours(quantity).mean for line in lines if line.ours(quantity)]
    if quantity.key.startswith("fid") and max(means) > 5 * min(means):
        axes.set_xscale("log")


def curve(axes: Axes, x: str, quantity: Quantity, lines: Sequence[Line]) -> None:
    """The mean over x with its standard deviation, one curve per series; the published values beside it."""
    along = next(iter(named(x, lines)), None)       # None: x is no quantity, its values are declared
    for colour, series in zip(SERIES, dict.fromkeys(line.row.series for line in lines), strict=False):
        points = sorted(((place(line, x, along), line.ours(quantity)) for line in lines if line.row.series == series
                         and line.ours(quantity) and place(line, x, along) is not None), key=lambda point: point[0])
        if points:
            axes.errorbar([at for at, _ in points], [ours.mean for _, ours in points],
                          [ours.std or 0.0 for _, ours in points], color=colour, marker="o", markersize=4, capsize=3,
                          label=series or "ours")
    known = sorted((place(line, x, along), line.theirs(quantity)) for line in lines
                   if line.theirs(quantity) is not None and place(line, x, along) is not None)
    if known:
        axes.plot(*zip(*known, strict=True), "x", color=THEIRS, label="published")
    if along:
        axes.set_xscale("log")
    axes.set(xlabel=along.title if along else x, ylabel=quantity.title)
    if known or len({line.row.series for line in lines}) > 1:
        axes.legend()


def place(line: Line, x: str, along: Quantity | None) -> Any:
    """Where the row lies on the axis: a value that it declares, else one that was measured."""
    if x in line.row.at:
        return line.row.at[x]
    ours = line.ours(along) if along else None
    return ours and ours.mean * along.scale
