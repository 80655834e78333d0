"""Figures as Vega-Lite, declared once for files and for the interactive figures of a page."""

import json
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import altair as alt

from diffprune.report.figures.chart import DENSE, Chart, Dots, Figure, Matrix, Panels, Series
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


def specification(figure: Figure) -> dict[str, Any]:
    """The figure in the colours of the light theme.

    It is not validated, which takes longer than drawing: the tests do that. A layer named `hover` holds invisible points
    that only a page needs; a title, names that a page lists itself.
    """
    return declared(figure).configure(**CONFIG).to_dict(validate=False)


def declared(figure: Figure) -> Any:
    """The Altair chart of a figure."""
    match figure:
        case Chart():
            return chart_of(figure, choosable=True)
        case Matrix():
            return matrix_of(figure)
        case Dots():
            return dots_of(figure)
        case Panels():
            panels = [chart_of(one) if isinstance(one, Chart) else dots_of(one) for one in figure.panels]
            return alt.hconcat(*panels, spacing=40).resolve_scale(color="independent", shape="independent",
                                                                  strokeDash="independent")
    raise TypeError(f"{type(figure).__name__} is not a figure that can be declared")


def chart_of(chart: Chart, choosable: bool = False) -> Any:
    """Shaded stretches, named places, then error bars, lines and marks; a click on the legend may choose a series."""
    rows = points(chart)
    named = 1 < len(chart.series) <= MOST_NAMED
    legend = legend_of(chart.series) if named else None
    base: Any = alt.Chart().encode(
        x=alt.X("x:Q", title=chart.x, scale=x_scale(chart, rows), axis=x_axis(chart, rows)),
        y=alt.Y("y:Q", title=chart.y, scale=y_scale(chart, rows), axis=y_axis(chart, rows)),
        color=alt.Color("series:N", title=None, legend=legend, scale=looks(chart.series, colour)))
    chosen = alt.selection_point(name="chosen", fields=["series"], bind="legend") if named and choosable else None
    if chosen is not None:
        base = base.encode(opacity=alt.condition(chosen, alt.value(1), alt.value(0.15)))
    drawn = [*errors(base, rows), *lines(base, chart, legend), *marks(base, chart, legend)]
    if chosen is not None:
        drawn[0] = drawn[0].add_params(chosen)
    return alt.layer(*shaded(chart), *drawn, *stops(chart), data=alt.Data(values=rows), width=WIDTH, height=HEIGHT)


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


def looks(series: Sequence[Series], look: Callable[[Series], Any]) -> Any:
    """Each series with its own look."""
    return alt.Scale(domain=[one.name for one in series], range=[look(one) for one in series])


def legend_of(series: Sequence[Series]) -> alt.Legend:
    """Above the figure, as wide as it. It shows the marks where there are any, else the lines."""
    lines: dict[str, Any] = {"symbolType": "stroke", "symbolStrokeWidth": 1.5}
    symbol: dict[str, Any] = {"symbolStrokeWidth": 0} if any(one.marks for one in series) else lines
    return alt.Legend(orient="top", columns=2 if max(len(one.name) for one in series) < LONG else 1, **symbol)


def errors(base: Any, rows: Sequence[dict[str, Any]]) -> list[Any]:
    bars = []
    if any("high" in row for row in rows):
        bars.append(base.transform_filter("isValid(datum.high)").mark_rule().encode(y="low:Q", y2="high:Q"))
    if any("right" in row for row in rows):
        bars.append(base.transform_filter("isValid(datum.right)").mark_rule().encode(x="left:Q", x2="right:Q"))
    return bars


def lines(base: Any, chart: Chart, legend: Any) -> list[Any]:
    """Steps where the x axis counts things, else straight from point to point."""
    lined = [series for series in chart.series if series.line]
    if any(series.marks for series in chart.series):
        legend = None
    drawn = of(base, lined).mark_line(strokeWidth=1.5, interpolate="step" if chart.ticks else "linear").encode(
        strokeDash=alt.StrokeDash("series:N", title=None, legend=legend, scale=looks(chart.series, dash)))
    return [drawn] if lined else []


def marks(base: Any, chart: Chart, legend: Any) -> list[Any]:
    """The points with what one reads when the mouse is over them; those without a mark are there for the mouse alone."""
    labelled = any(series.labels for series in chart.series)
    base = base.encode(tooltip=[
        alt.Tooltip("label:N" if labelled else "series:N", title="title"),
        alt.Tooltip("series:N", title="configuration") if chart.ticks else alt.Tooltip("x:Q", title=chart.x, format=".4~g"),
        alt.Tooltip("y:Q", title=chart.y, format=".4~g")])
    marked, bare = ([series for series in chart.series if series.marks == shown] for shown in (True, False))
    shape = alt.Shape("series:N", title=None, legend=legend, scale=looks(chart.series, mark))
    return [*([of(base, marked).mark_point().encode(shape=shape)] if marked else []),
            *([of(base, bare).mark_point().encode(opacity=alt.value(0)).properties(name="hover")] if bare else [])]


def of(base: Any, series: Sequence[Series]) -> Any:
    """The rows of these series."""
    return base.transform_filter(alt.FieldOneOfPredicate("series", [one.name for one in series]))


def shaded(chart: Chart) -> list[Any]:
    drawn: Any = alt.Chart(alt.Data(values=[{"x": first, "end": end} for first, end in chart.spans])).mark_rect(
        color=LIGHT["c0"], opacity=0.15)
    return [drawn.encode(x="x:Q", x2="end:Q")] if chart.spans else []


def stops(chart: Chart) -> list[Any]:
    """A dotted line with its name, at a height that its neighbours do not have."""
    if not chart.stops:
        return []
    data = alt.Data(values=[{"x": stop.x, "name": stop.name, "height": HEIGHT * (0.98 - 0.2 * (i % 4))}
                            for i, stop in enumerate(chart.stops)])
    base: Any = alt.Chart(data).encode(x="x:Q")
    name = base.mark_text(angle=270, align="left", baseline="bottom", dx=0, dy=-2, fontSize=10, color=LIGHT["quiet"])
    return [base.mark_rule(color=LIGHT["quiet"], strokeDash=[1, 2]),
            name.encode(y=alt.Y("height:Q", scale=None, axis=None), text="name:N")]


def scale(log: bool, values: Sequence[float], **linear: Any) -> Any:
    """A logarithmic axis ends where the values end, a linear one at a round number."""
    if log:
        return alt.Scale(type="log", nice=False, domain=[*log_range(values)])
    shown: dict[str, Any] = {"zero": False, "padding": 8} | linear
    return alt.Scale(**shown)


def log_range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest of positive `values`, a margin further apart."""
    margin = (max(values) / min(values)) ** MARGIN * 1.02
    return min(values) / margin, max(values) * margin


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Round numbers in plain digits, as many as the span of the values needs; Vega's own where it has less than two."""
    low, high = log_range(values)
    span = math.log10(high / low)
    steps = (1,) if span > 2 else (1, 2, 5) if span > 0.7 else range(1, 10)
    ticks = [float(f"{step}e{power}") for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for step in steps if low <= step * 10.0 ** power <= high]
    return {"format": "~g", "labelOverlap": True} | ({"values": ticks} if len(ticks) > 1 else {"tickCount": 5})


def x_axis(chart: Chart, rows: Sequence[dict[str, Any]]) -> Any:
    if chart.log_x:
        return alt.Axis(**log_ticks([row["x"] for row in rows]))
    if not chart.ticks:
        return alt.Axis(tickCount=5)
    names = {f"{x:g}": name for x, name in chart.ticks}
    return alt.Axis(values=[x for x, _ in chart.ticks], labelExpr=f"{json.dumps(names)}[datum.value]", labelAngle=-90,
                    labelOverlap=False, grid=False)


def x_scale(chart: Chart, rows: Sequence[dict[str, Any]]) -> Any:
    return scale(chart.log_x, [row["x"] for row in rows], nice=any(series.marks for series in chart.series))


def y_axis(chart: Chart, rows: Sequence[dict[str, Any]]) -> Any:
    if chart.log_y:
        return alt.Axis(**log_ticks(extent(rows)))
    return alt.Axis(tickCount=6, tickMinStep=1) if chart.ticks else alt.Axis(tickCount=6)


def y_scale(chart: Chart, rows: Sequence[dict[str, Any]]) -> Any:
    return scale(chart.log_y, extent(rows), **({"zero": True, "padding": 0} if chart.ticks else {}))


def extent(rows: Sequence[dict[str, Any]]) -> list[float]:
    """All y values, with the ends of their error bars."""
    return [row[name] for row in rows for name in ("y", "low", "high") if name in row]


def matrix_of(matrix: Matrix) -> Any:
    """Shaded squares with their value; the shade is the opacity of one colour, which suits light and dark alike."""
    count, short = len(matrix.labels), [str(i + 1) if matrix.numbered else label for i, label in enumerate(matrix.labels)]
    cells = [{"row": short[i], "column": short[j], "shade": 0.45 * (value or 0.0),
              "text": "–" if value is None else f"{value:.2f}", "title": f"{matrix.labels[i]} and {matrix.labels[j]}"}
             for i, row in enumerate(matrix.values) for j, value in enumerate(row)]
    axis: dict[str, Any] = {"sort": None, "title": None, "scale": alt.Scale(domain=short)}
    bare: dict[str, Any] = {"ticks": False, "domain": False, "labelPadding": 4}
    base: Any = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("column:N", axis=alt.Axis(labelAngle=0 if matrix.numbered else -45, **bare), **axis),
        y=alt.Y("row:N", axis=alt.Axis(**bare), **axis),
        tooltip=["title:N", alt.Tooltip("text:N", title=matrix.unit)])
    squares = base.mark_rect(color=LIGHT["c0"], stroke=LIGHT["grid"], strokeWidth=0.6).encode(
        fillOpacity=alt.FillOpacity("shade:Q", scale=None))
    out = alt.layer(squares, base.mark_text().encode(text="text:N")).properties(width=CELL * count, height=CELL * count)
    names = [f"{i}  {label}" for i, label in enumerate(matrix.labels, 1)]
    return out.properties(title=alt.TitleParams(names, orient="bottom")) if matrix.numbered else out


def dots_of(dots: Dots) -> Any:
    """From above a line for each row: each seed a dot, their mean a bar, the published value a cross."""
    rows: list[dict[str, Any]] = [{"row": name, "value": value, "kind": kind} for name, values, published in dots.rows
            for value, kind in (*((value, "one seed") for value in values), *([(fmean(values), "mean")] if values else []),
                                *([(published, "published")] if published is not None else []))]
    kinds, names = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)], [name for name, *_ in dots.rows]

    def of_kind(look: Callable[[str], Any]) -> dict[str, Any]:
        return {"title": None, "legend": alt.Legend(orient="top"),
                "scale": alt.Scale(domain=kinds, range=[look(kind) for kind in kinds])}

    values = [row["value"] for row in rows]
    axis = alt.Axis(**log_ticks(values)) if dots.log_x else alt.Axis(tickCount=6)
    drawn: Any = alt.Chart(alt.Data(values=rows)).mark_point(opacity=0.8)
    return drawn.encode(
        x=alt.X("value:Q", title=dots.x, scale=scale(dots.log_x, values), axis=axis),
        y=alt.Y("row:N", title=None, sort=None, scale=alt.Scale(domain=names), axis=alt.Axis(grid=True, ticks=False)),
        shape=alt.Shape("kind:N", **of_kind(lambda kind: KINDS[kind][0])),
        color=alt.Color("kind:N", **of_kind(lambda kind: LIGHT[KINDS[kind][1]]))).properties(
            width=WIDTH * 0.8, height=LINE * len(names))
