"""Charts and matrices by Matplotlib: inside a page as SVG in the page's colours, and as PNG and SVG files."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from diffprune.report.figures.chart import DENSE, Chart, Matrix
from diffprune.report.figures.svg import COLOURS, INCHES, LIGHT, LOOK, SERIES, SVG_METADATA, embedded
from diffprune.report.figures.svg import DENSE as DENSE_CODE
from diffprune.report.figures.svg import GRID as GRID_CODE
from diffprune.report.figures.svg import INK as INK_CODE

MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
DPI = 200
MOST_NAMED = 16     # series; a legend of more would outgrow the figure, and on the page every point says its name
LONG = 28           # letters of a name that needs a legend's line for itself
INCH_OF_ROW, INCH_OF_LETTER = 0.36, 0.075


@dataclass(frozen=True)
class Drawing:
    """One figure: `inline` for a page, `svg` and `png` as files with the colours of the light page."""
    inline: str
    svg: str
    png: bytes


def drawn(shown: Chart | Matrix) -> Drawing:
    """Draws in the light page's colours; on a page, its own stand in their place."""
    look = {name: LIGHT.get(value, value) if isinstance(value, str) else value for name, value in LOOK.items()}
    vectors, pixels = io.StringIO(), io.BytesIO()
    with rc_context(look):
        made = figure(shown)
        made.savefig(vectors, format="svg", transparent=True, metadata=SVG_METADATA)
        made.savefig(pixels, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return Drawing(themed(vectors.getvalue(), shown.name, shown.alt), vectors.getvalue(), pixels.getvalue())


def figure(shown: Chart | Matrix) -> Figure:
    """Laid out once, which takes as long as drawing."""
    out = Figure(size(shown), layout="constrained")
    draw: Callable[..., None] = draw_chart if isinstance(shown, Chart) else draw_matrix
    draw(shown, out.subplots())
    out.draw_without_rendering()
    out.set_layout_engine("none")
    return out


def themed(svg: str, name: str, description: str) -> str:
    """For a page: every colour of the light page becomes the page's variable."""
    for code, colour in LIGHT.items():
        svg = svg.replace(colour, COLOURS[code])
    return embedded(svg, name, description)


def size(shown: Chart | Matrix) -> tuple[float, float]:
    if isinstance(shown, Matrix):
        side, names = max(2.4, INCH_OF_ROW * len(shown.labels)), INCH_OF_LETTER * max(map(len, shown.labels))
        return side + names, side + (0.4 if shown.numbered else 0.8 * names)
    lines = -(-len(shown.series) // columns(shown)) if 1 < len(shown.series) <= MOST_NAMED else 0
    return INCHES[0], INCHES[1] + 0.16 * lines


def columns(chart: Chart) -> int:
    """Of the legend, which is as wide as the figure."""
    return 2 if max(len(series.name) for series in chart.series) < LONG else 1


def draw_chart(chart: Chart, axes: Axes) -> None:
    for series in chart.series:
        dense = series.colour == DENSE
        i = series.colour
        colour = LIGHT[DENSE_CODE] if dense else LIGHT[SERIES[i % len(SERIES)]]
        line = ("-" if dense else DASHES[i % len(DASHES)]) if series.line else ""
        mark = ("*" if dense else MARKS[(i + i // len(SERIES)) % len(MARKS)]) if series.marks else ""
        axes.errorbar(series.x, series.y, errors(series.y_error), errors(series.x_error), label=series.name, color=colour,
                      linestyle=line, marker=mark, markersize=9 if dense else 6, elinewidth=0.8, capsize=2,
                      drawstyle="steps-mid" if chart.ticks else "default", linewidth=1.2)
    for first, end in chart.spans:
        axes.axvspan(first, end, color=LIGHT[SERIES[0]], alpha=0.15, linewidth=0)
    for i, stop in enumerate(chart.stops):
        axes.axvline(stop.x, color=LIGHT[INK_CODE], linewidth=0.7, linestyle=":")
        axes.annotate(stop.name, (stop.x, 0.02 + 0.2 * (i % 4)), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                      ha="right", va="bottom")
    axes.set(xlabel=chart.x, ylabel=chart.y)
    if chart.log_y:
        logarithmic(axes, [value for series in chart.series for value in series.y])
    if chart.ticks:
        axes.set_xticks(*zip(*chart.ticks, strict=True), rotation=90)
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if 1 < len(chart.series) <= MOST_NAMED:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns(chart), borderaxespad=0.2)


def errors(values: Sequence[float | None]) -> list[float] | None:
    return [value or 0.0 for value in values] if any(values) else None


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic y axis with plain numbers, as many as the span of the values needs."""
    span = math.log10(max(values) / min(values))
    axes.set_yscale("log")
    subs = (1,) if span > 2 else (1, 2, 5) if span > 0.7 else range(1, 10)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=7 if span > 2 else None))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_matrix(matrix: Matrix, axes: Axes) -> None:
    """Cells as shaded squares with their number in them; the shade is the opacity of one colour, in light and in dark."""
    count = len(matrix.labels)
    for i, row in enumerate(matrix.values):
        for j, value in enumerate(row):
            axes.axvspan(j - 0.5, j + 0.5, 1 - (i + 1) / count, 1 - i / count, color=LIGHT[SERIES[0]],
                         alpha=0.45 * (value or 0.0), linewidth=0)
            axes.text(j, i, "–" if value is None else f"{value:.2f}", ha="center", va="center", fontsize=8)
    if matrix.numbered:
        axes.set_xticks(range(count), [str(i + 1) for i in range(count)])
        axes.set_yticks(range(count), [f"{label}  {i + 1}" for i, label in enumerate(matrix.labels)])
    else:
        axes.set_xticks(range(count), matrix.labels, rotation=45, ha="right")
        axes.set_yticks(range(count), matrix.labels)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=LIGHT[GRID_CODE])


def file_name(name: str) -> str:
    """`name` as one may call a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
