"""Figures as Vega-Lite, declared once for files and for the interactive figures of a page."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

import altair as alt

from diffprune.report.figures.chart import DENSE, Chart, Dots, Figure, Matrix, Panels, Series
from diffprune.report.figures.direct_labels import GAP, LETTER, Label, direct_labels
from diffprune.report.figures.palette import LIGHT, SERIES

WIDTH, HEIGHT = 360, 240        # pixels of a chart's axes
CELL, LINE = 34, 24             # pixels of a matrix's cell, of a row of dots
MOST_NAMED = 16     # series; a legend of more would outgrow the figure, and on the page every point says its name
LONG = 28           # letters of a name that needs a line of the legend for itself
MARGIN = 0.05       # of the axis, beyond the values at either end
STAR = "M0,-1.6L.39,-.54L1.52,-.49L.63,.21L.94,1.29L0,.67L-.94,1.29L-.63,.21L-1.52,-.49L-.39,-.54Z"
CROSS = "M-.8,-1L0,-.2L.8,-1L1,-.8L.2,0L1,.8L.8,1L0,.2L-.8,1L-1,.8L-.2,0L-1,-.8Z"
BAR = "M-.25,-2L.25,-2L.25,2L-.25,2Z"
MARKS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", CROSS)
DASHES = ([1, 0], [5, 3], [7, 2, 1, 2], [1, 2])
SIZE = 60           # of a mark, in square pixels
KINDS = {"one seed": ("circle", "c0"), "mean": (BAR, "ink"), "published": (CROSS, "c1")}
INK = {"labelColor": LIGHT["ink"], "labelFontSize": 11, "labelLimit": 0, "titleColor": LIGHT["ink"], "titleFontSize": 11,
       "titleFontWeight": "normal"}
CONFIG = {"font": "Liberation Sans, Arial, Helvetica, sans-serif", "background": LIGHT["paper"], "aria": False,
          "view": {"stroke": None}, "text": {"color": LIGHT["ink"], "fontSize": 11}, "legend": {**INK, "offset": 8},
          "axis": {**INK, "domainColor": LIGHT["ink"], "tickColor": LIGHT["grid"], "gridColor": LIGHT["grid"],
                   "gridWidth": 0.6},
          "title": {"color": LIGHT["ink"], "fontSize": 11, "fontWeight": "normal", "anchor": "start", "offset": 12},
          "point": {"filled": True, "opacity": 1, "size": SIZE}}


def specification(figure: Figure, still: bool = False) -> dict[str, Any]:
    """The figure in the colours of the light theme; a `still` one cannot be zoomed. It is not validated, which takes longer
    than drawing: the tests do that.
    A layer whose name begins with `hover` holds invisible marks that only a page needs; a title, what a page says
    itself."""
    out = declared(figure, choosable=not still)
    lines = [*([figure.made] if figure.made else []), *numbered(figure)]
    return (out.properties(title=alt.TitleParams(lines, orient="bottom")) if lines else out).configure(
        **CONFIG).to_dict(validate=False)


def numbered(figure: Figure) -> list[str]:
    """The names behind the numbers on a matrix's axes."""
    return [f"{i}  {label}" for i, label in enumerate(figure.labels, 1)] if (
        isinstance(figure, Matrix) and figure.numbered) else []


def declared(figure: Figure, choosable: bool = False) -> Any:
    """The Altair chart of a figure; a click on the legend of a `choosable` one chooses a series."""
    match figure:
        case Chart():
            return chart_of(figure, choosable)
        case Matrix():
            return matrix_of(figure)
        case Dots():
            return dots_of(figure)
        case Panels():
            return alt.hconcat(*map(declared, figure.panels), spacing=40).resolve_scale(
                color="independent", shape="independent", strokeDash="independent")
    raise TypeError(f"{type(figure).__name__} is not a figure that can be declared")


def chart_of(chart: Chart, choosable: bool) -> Any:
    """Shaded stretches, error bars, lines, marks, named places. Series are named beside their last points where that fits,
    else by a legend. A `choosable` chart is for a page: a click on the legend chooses a series, and one may zoom."""
    rows, direct = points(chart), direct_labels(chart, WIDTH * 0.75, HEIGHT)
    named = 1 < len(chart.series) <= MOST_NAMED and not direct
    legend = legend_of(chart.series) if named else None
    heights = [row[name] for row in rows for name in ("y", "low", "high") if name in row]
    x = axis(chart.x, [row["x"] for row in rows], chart.log_x, nice=any(series.marks for series in chart.series))
    y = axis(chart.y, heights, chart.log_y, **({"zero": True, "padding": 0} if chart.ticks else {}))
    if chart.ticks:     # the x axis counts things, of which some have names
        names = json.dumps({f"{x:g}": name for x, name in chart.ticks})
        x["axis"] = {"values": [x for x, _ in chart.ticks], "labelExpr": f"{names}[datum.value]", "labelAngle": -90,
                     "labelOverlap": False, "grid": False}
        y["axis"]["tickMinStep"] = 1
    base: Any = alt.Chart().encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y),
                                   color=alt.Color("series:N", **looks(chart.series, colour, legend)))
    if choosable:
        base = base.add_params(alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.ctrlKey]"))
    if named and choosable:
        chosen = alt.selection_point(name="chosen", fields=["series"], bind="legend")
        base = base.encode(opacity=alt.condition(chosen, alt.value(1), alt.value(0.15))).add_params(chosen)
    layers = [*shaded(chart), *errors(base, rows), *lines(base, chart, legend), *marks(base, chart, legend), *stops(chart),
              *beside_points(direct, chart)]
    beside = max((LETTER * len(label.name) for label in direct), default=0)
    return alt.layer(*layers, data=alt.Data(values=rows), width=WIDTH - beside, height=HEIGHT)


def points(chart: Chart) -> list[dict[str, Any]]:
    """A row for each point; the ends of its error bars are there where it has them."""
    out = []
    for series in chart.series:
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            row: dict[str, Any] = {"series": series.name, "x": x, "y": y}
            if series.labels:
                row["label"] = series.labels[i]
            for low, high, at, spread in (("left", "right", x, series.x_error), ("low", "high", y, series.y_error)):
                if spread and (error := spread[i]):
                    row |= {low: at - error, high: at + error}
            if chart.log_y and row.get("low", y) <= 0:      # a logarithmic axis has no zero
                row["low"] = y
            out.append(row)
    return out


def colour(series: Series) -> str:
    return LIGHT["dense" if series.colour == DENSE else f"c{series.colour % SERIES}"]


def mark(series: Series) -> str:
    return STAR if series.colour == DENSE else MARKS[(series.colour + series.colour // SERIES) % len(MARKS)]


def dash(series: Series) -> list[int]:
    return DASHES[0] if series.colour == DENSE else DASHES[series.colour % len(DASHES)]


def looks(series: Iterable[Any], look: Callable[[Any], Any], legend: Any) -> dict[str, Any]:
    """Each series, or kind of dot, with its own look."""
    named = {one if isinstance(one, str) else one.name: look(one) for one in series}
    return {"title": None, "legend": legend, "scale": {"domain": [*named], "range": [*named.values()]}}


def legend_of(series: Sequence[Series]) -> dict[str, Any]:
    """Above the figure, as wide as it. It shows the marks where there are any, else the lines."""
    symbols = {"symbolStrokeWidth": 0} if any(one.marks for one in series) else {
        "symbolType": "stroke", "symbolStrokeWidth": 1.5}
    return {"orient": "top", "columns": 2 if max(len(one.name) for one in series) < LONG else 1, **symbols}


def axis(title: str, values: Sequence[float], log: bool, **linear: Any) -> dict[str, Any]:
    """Title, scale and ticks. A logarithmic axis ends a margin beyond the values, a linear one at round numbers. Its ticks
    are round numbers in plain digits, as many as the span of the values needs; Vega's own where there are fewer than two of
    them."""
    if not log:
        return {"title": title, "scale": {"zero": False, "padding": 8} | linear,
                "axis": {"tickCount": 5, "labelFlush": False}}
    margin = (max(values) / min(values)) ** MARGIN * 1.02
    low, high = min(values) / margin, max(values) * margin
    span = math.log10(high / low)
    steps = (1,) if span > 2 else (1, 2, 5) if span > 0.7 else range(1, 10)
    ticks = [float(f"{step}e{power}") for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for step in steps if low <= step * 10.0 ** power <= high]
    return {"title": title, "scale": {"type": "log", "nice": False, "domain": [low, high]}, "axis": {
        "format": "~g", "labelOverlap": True} | ({"values": ticks} if len(ticks) > 1 else {"tickCount": 5})}


def errors(base: Any, rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Error bars, along each axis on which any point has one."""
    ends = {"high": {"y": "low:Q", "y2": "high:Q"}, "right": {"x": "left:Q", "x2": "right:Q"}}
    return [base.transform_filter(f"isValid(datum.{end})").mark_rule().encode(**bar) for end, bar in ends.items()
            if any(end in row for row in rows)]


def lines(base: Any, chart: Chart, legend: Any) -> list[Any]:
    """Steps where the x axis counts things, else straight from point to point."""
    lined, marked = [series for series in chart.series if series.line], any(series.marks for series in chart.series)
    drawn = of(base, lined).mark_line(strokeWidth=1.5, interpolate="step" if chart.ticks else "linear")
    return [drawn.encode(strokeDash=alt.StrokeDash("series:N", **looks(chart.series, dash, None if marked else legend)))
            ] if lined else []


def marks(base: Any, chart: Chart, legend: Any) -> list[Any]:
    """The points with what one reads when the mouse is over them; those without a mark are there for the mouse alone."""
    labelled = any(series.labels for series in chart.series)
    base = base.encode(tooltip=[
        alt.Tooltip("label:N" if labelled else "series:N", title="title"),
        alt.Tooltip("series:N", title="configuration") if chart.ticks else read_off("x:Q", chart.x),
        read_off("y:Q", chart.y)])
    marked, bare = ([series for series in chart.series if series.marks == shown] for shown in (True, False))
    shape = alt.Shape("series:N", **looks(chart.series, mark, legend))
    return [*([of(base, marked).mark_point().encode(shape=shape)] if marked else []),
            *([of(base, bare).mark_point().encode(opacity=alt.value(0)).properties(name="hover")] if bare else [])]


def read_off(field: str, title: str) -> Any:
    """A number in the tooltip. Vega-Lite writes the title into an expression, in which a backslash begins an escape."""
    return alt.Tooltip(field, title=title.replace("\\", "\\\\"), format=".4~g")


def of(base: Any, series: Sequence[Series]) -> Any:
    """The rows of these series."""
    return base.transform_filter(alt.FieldOneOfPredicate("series", [one.name for one in series]))


def shaded(chart: Chart) -> list[Any]:
    """The stretches of the x axis that the chart shades."""
    data = alt.Data(values=[{"x": first, "end": end} for first, end in chart.spans])
    drawn: Any = alt.Chart(data).mark_rect(color=LIGHT["c0"], opacity=0.15)
    return [drawn.encode(x="x:Q", x2="end:Q")] if chart.spans else []


def stops(chart: Chart) -> list[Any]:
    """The stops in use as lines with their names, each at a height that its neighbours do not have; the others as fine lines
    that say their names to the mouse."""
    used = [(x, name) for x, name in chart.stops if name in chart.in_use]
    rows = [{"x": x, "name": name, "y": HEIGHT * (0.98 - 0.2 * (i % 4))} for i, (x, name) in enumerate(used)]
    others = [{"x": x, "name": name} for x, name in chart.stops if name not in chart.in_use]
    base: Any = alt.Chart(alt.Data(values=rows)).encode(x="x:Q")
    fine: Any = alt.Chart(alt.Data(values=others)).encode(x="x:Q", tooltip=alt.Tooltip("name:N", title="threshold"))
    text = base.mark_text(angle=270, align="left", baseline="bottom", dy=-3, fontWeight="bold", color=LIGHT["ink"])
    return [*([fine.mark_rule(color=LIGHT["quiet"], strokeDash=[1, 3]),
               fine.mark_rule(strokeWidth=8, opacity=0).properties(name="hover-stops")] if others else []),
            *([base.mark_rule(color=LIGHT["ink"], strokeWidth=1.5),
               text.encode(y=alt.Y("y:Q", scale=None, axis=None), text="name:N")] if rows else [])]


def beside_points(labels: Sequence[Label], chart: Chart) -> list[Any]:
    """The series' names, each in its colour beside its last point."""
    data = alt.Data(values=[{"x": label.x, "y": label.y, "series": label.name} for label in labels])
    text: Any = alt.Chart(data).mark_text(align="left", dx=GAP, clip=False)
    return [text.encode(x="x:Q", y="y:Q", text="series:N",
                        color=alt.Color("series:N", **looks(chart.series, colour, None)))] if labels else []


def matrix_of(matrix: Matrix) -> Any:
    """Shaded squares with their value; the shade is the opacity of one colour, which suits light and dark alike."""
    side, short = CELL * len(matrix.labels), [str(i) if matrix.numbered else label
                                              for i, label in enumerate(matrix.labels, 1)]
    cells = [{"row": short[i], "column": short[j], "shade": 0.45 * (value or 0.0),
              "text": "–" if value is None else f"{value:.2f}", "title": f"{matrix.labels[i]} and {matrix.labels[j]}"}
             for i, row in enumerate(matrix.values) for j, value in enumerate(row)]
    names: dict[str, Any] = {"sort": None, "title": None, "scale": {"domain": short}}
    bare = {"ticks": False, "domain": False, "labelPadding": 4}
    base: Any = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("column:N", axis={**bare, "labelAngle": 0 if matrix.numbered else -45}, **names),
        y=alt.Y("row:N", axis=bare, **names), tooltip=["title:N", alt.Tooltip("text:N", title=matrix.unit)])
    squares = base.mark_rect(color=LIGHT["c0"], stroke=LIGHT["grid"], strokeWidth=0.6).encode(
        fillOpacity=alt.FillOpacity("shade:Q", scale=None))
    return alt.layer(squares, base.mark_text().encode(text="text:N"), width=side, height=side)


def dots_of(dots: Dots) -> Any:
    """From above a line for each row: each seed a dot, their mean a bar, the published value a cross; the dense model's
    value a line across."""
    rows: list[dict[str, Any]] = [{"row": name, "value": value, "kind": kind} for name, values, published in dots.rows
            for value, kind in (*((value, "one seed") for value in values), *([(fmean(values), "mean")] if values else []),
                                *([(published, "published")] if published is not None else []))]
    kinds, legend = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)], {"orient": "top", "symbolSize": 30}
    names: dict[str, Any] = {"title": None, "sort": None, "scale": {"domain": [name for name, *_ in dots.rows]}}
    known = [row["value"] for row in rows] + ([dots.dense] if dots.dense is not None else [])
    x = alt.X("value:Q", **axis(dots.x, known, dots.log_x))
    drawn: Any = alt.Chart(alt.Data(values=rows)).mark_point(opacity=0.8)
    points = drawn.encode(
        x=x, y=alt.Y("row:N", axis={"grid": True, "ticks": False}, **names),
        tooltip=[alt.Tooltip("row:N", title="title"), alt.Tooltip("kind:N", title="what"), read_off("value:Q", dots.x)],
        shape=alt.Shape("kind:N", **looks(kinds, lambda kind: KINDS[kind][0], legend)),
        color=alt.Color("kind:N", **looks(kinds, lambda kind: LIGHT[KINDS[kind][1]], legend)))
    return alt.layer(*across(dots), points, width=WIDTH * 0.8, height=LINE * len(dots.rows))


def across(dots: Dots) -> list[Any]:
    """The dense model's value, with its name in the last row, whose values are far from it."""
    line: Any = alt.Chart(alt.Data(values=[{"value": dots.dense, "name": "dense"}])).encode(x="value:Q")
    return [] if dots.dense is None else [
        line.mark_rule(color=LIGHT["dense"], strokeWidth=1.5),
        line.mark_text(align="left", dx=4, color=LIGHT["quiet"]).encode(
            text="name:N", y=alt.value(LINE * (len(dots.rows) - 0.5)))]
