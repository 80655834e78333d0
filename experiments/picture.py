"""The picture of a table: every row's numbers with their spread, or a curve over the table's axis."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from experiments.beside import BESIDE, QUALITY, SIZES, Line, Quantity
from experiments.declared import Table

OURS, THEIRS, SERIES = "#0072b2", "#b84e00", ("#0072b2", "#009e73", "#cc79a7", "#e69f00")     # Okabe and Ito
LOOK = {"svg.fonttype": "none", "svg.hashsalt": "diffprune", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#dde0e5", "axes.axisbelow": True,
        "legend.frameon": False, "figure.facecolor": "white"}
WIDTH, HEIGHT = 4.8, 3.2        # inches, of each quantity's axes
KNOWN = {one.key: one for one in (*SIZES, *QUALITY, *BESIDE)}


def picture(table: Table, lines: Sequence[Line], shown: Sequence[Quantity]) -> str | None:
    """The figure as SVG, equal for equal numbers; None where nothing is measured."""
    wanted = [KNOWN[key] for key in table.figure.get("y", ()) if any(line.ours(KNOWN[key]) for line in lines)]
    if not wanted:
        return None
    with rc_context(LOOK):
        figure = Figure((WIDTH * len(wanted), HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, quantity in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
            if "x" in table.figure:
                curve(axes, table.figure["x"], quantity, lines)
            else:
                dots(axes, quantity, lines)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return out.getvalue()


def dots(axes: Axes, quantity: Quantity, lines: Sequence[Line]) -> None:
    """One line per row, from above: each seed a dot, the mean a bar, the published number a cross."""
    for place, line in enumerate(lines):
        ours, theirs = line.ours(quantity), line.theirs(quantity)
        if ours is not None:
            values = [run[quantity.key] * quantity.scale for run in line.runs if run.get(quantity.key) is not None]
            axes.plot(values, [place] * len(values), "o", color=OURS, alpha=0.5, markersize=5, markeredgewidth=0)
            axes.plot([ours.mean], [place], "|", color=OURS, markersize=14, markeredgewidth=2)
        if theirs is not None:
            axes.plot([theirs], [place], "x", color=THEIRS, markersize=6)
    axes.set_yticks(range(len(lines)), [line.row.title for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set(xlabel=quantity.title)
    measured = [line.ours(quantity).mean for line in lines if line.ours(quantity)]
    if quantity.key == "fid" and max(measured) > 5 * min(measured):
        axes.set_xscale("log")


def curve(axes: Axes, x: str, quantity: Quantity, lines: Sequence[Line]) -> None:
    """The mean over x with its standard deviation, one curve per series; the published values beside it."""
    for colour, series in zip(SERIES, dict.fromkeys(line.row.series for line in lines), strict=False):
        points = sorted(((place(line, x), line.ours(quantity)) for line in lines if line.row.series == series
                         and line.ours(quantity) and place(line, x) is not None), key=lambda point: point[0])
        if points:
            axes.errorbar([at for at, _ in points], [ours.mean for _, ours in points],
                          [ours.std or 0.0 for _, ours in points], color=colour, marker="o", markersize=4, capsize=3,
                          label=series or "ours")
    known = sorted((place(line, x), line.theirs(quantity)) for line in lines
                   if line.theirs(quantity) is not None and place(line, x) is not None)
    if known:
        axes.plot(*zip(*known, strict=True), "x", color=THEIRS, label="published")
    if x in KNOWN:
        axes.set_xscale("log")
    axes.set(xlabel=KNOWN[x].title if x in KNOWN else x, ylabel=quantity.title)
    if known or len({line.row.series for line in lines}) > 1:
        axes.legend()


def place(line: Line, x: str) -> Any:
    """Where the row lies on the axis: a value that it declares, else one that was measured."""
    if x in line.row.at:
        return line.row.at[x]
    ours = line.ours(KNOWN[x]) if x in KNOWN else None
    return ours and ours.mean
