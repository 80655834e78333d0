"""The figure of a table: every row's numbers with their spread, or a curve over the table's axis."""

from collections.abc import Sequence

from diffprune.report.figures.chart import Chart, Dots, Panels, Series
from diffprune.report.figures.render import Drawing, draw
from diffprune.report.tables.quantities import Quantity, features_in, quantities
from experiments.planning.declarations import Table
from experiments.reporting.against_published import Line

PUBLISHED = 6       # the colour of published values, whose mark is a cross
WIDE = 5            # distances that span so much have a logarithmic axis


def table_figure(table: Table, lines: Sequence[Line]) -> Drawing | None:
    """A panel for each quantity that the table's figure names; None where none of them is measured."""
    wanted = [one for name in table.figure.get("y", ()) for one in named(name, lines)
              if any(line.ours(one) for line in lines)]
    panels = [curve(table.figure["x"], one, lines) if "x" in table.figure else dots(one, lines) for one in wanted]
    return draw(Panels(table.name, table.about, "", table.about, panels)) if panels else None


def named(name: str, lines: Sequence[Line]) -> list[Quantity]:
    """The quantities that a table calls `name`: one for each kind of features where it depends on them."""
    every_quantity = quantities([line.measured for line in lines])
    names = {name, *(f"{name}_{kind}" for kind in features_in({one.key for one in every_quantity}))}
    return [one for one in every_quantity if one.key in names]


def dots(quantity: Quantity, lines: Sequence[Line]) -> Dots:
    """The value of every seed, and the published one."""
    rows = [(line.row.title, [value for numbers in line.numbers if (value := numbers.get(quantity.key)) is not None],
             line.theirs(quantity)) for line in lines]
    means = [ours.mean for line in lines if (ours := line.ours(quantity))]
    return Dots(quantity.key, "", "", "", quantity.title, rows,
                log_x=quantity.key.startswith("fid") and max(means) > WIDE * min(means))


def curve(x: str, quantity: Quantity, lines: Sequence[Line]) -> Chart:
    """The mean over x with its standard deviation, one curve for each series; the published values as marks of their own."""
    along = next(iter(named(x, lines)), None)       # None: x is no quantity, its values are declared
    placed = sorted(((at, line) for line in lines if (at := place(line, x, along)) is not None), key=lambda one: one[0])
    series = []
    for colour, name in enumerate(dict.fromkeys(line.row.series for line in lines)):
        points = [(at, ours) for at, line in placed if line.row.series == name and (ours := line.ours(quantity))]
        if points:
            series.append(Series(name or "ours", [at for at, _ in points], [ours.mean for _, ours in points],
                                 y_error=[ours.std for _, ours in points], colour=colour, line=True))
    if published := [(at, theirs) for at, line in placed if (theirs := line.theirs(quantity)) is not None]:
        series.append(Series("published", [at for at, _ in published], [theirs for _, theirs in published],
                             colour=PUBLISHED))
    values = [value for one in series for value in one.y]
    return Chart(quantity.key, "", "", "", along.title if along else x, quantity.title, series, log_x=along is not None,
                 log_y=min(values) > 0 and max(values) > WIDE * min(values))


def place(line: Line, x: str, along: Quantity | None) -> float | None:
    """Where the row lies on the axis: a value that it declares, else one that was measured."""
    if x in line.row.at:
        return line.row.at[x]
    if along is None or (ours := line.ours(along)) is None:
        return None
    return ours.mean * along.scale
