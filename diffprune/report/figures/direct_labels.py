"""Where a series' name fits beside its last point, so that no legend is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from diffprune.report.figures.chart import Chart, Series

LETTER, LINE = 6.0, 12.0    # pixels of a letter of a figure's text, and of a line
GAP = 7.0                   # between a point and its name
MARK = 4.0                  # half of a mark
LONGEST = 24                # letters
MOST = 8                    # names


@dataclass(frozen=True)
class Box:
    """Pixels that something takes; `low` and `high` are counted upwards."""
    left: float
    right: float
    low: float
    high: float

    def meets(self, other: "Box") -> bool:
        """Whether the two have a place in common."""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high


@dataclass(frozen=True)
class Label:
    """`name` stands right of the place (x, y), in the chart's units, and takes a `box`."""
    name: str
    x: float
    y: float
    box: Box


def direct_labels(chart: Chart, width: float, height: float) -> list[Label]:
    """A label for every series of a chart that is `width` by `height` pixels; none where they are long or many, or where one
    would hide another, a point or an error bar."""
    names = [series.name for series in chart.series]
    if len(names) < 2 or len(names) > MOST or max(map(len, names)) > LONGEST:
        return []
    across = Scale.of([end for series in chart.series for end in ends(series.x, series.x_error)], chart.log_x, width)
    up = Scale.of([end for series in chart.series for end in ends(series.y, series.y_error)], chart.log_y, height)
    labels = [label(series, across, up) for series in chart.series]
    taken = [box for series in chart.series if series.marks for box in boxes(series, across, up)]
    crowded = any(one.box.meets(other.box) for one, other in combinations(labels, 2))
    return [] if crowded or any(one.box.meets(box) for one in labels for box in taken) else labels


@dataclass(frozen=True)
class Scale:
    """An axis of `length` pixels from `low` to `high`, which are logarithms where it is logarithmic."""
    low: float
    high: float
    log: bool
    length: float

    @classmethod
    def of(cls, values: Sequence[float], log: bool, length: float) -> "Scale":
        scaled = [math.log(value) for value in values if value > 0] if log else values
        return cls(min(scaled), max(scaled), log, length)

    def pixels(self, value: float) -> float:
        """Where the value lies; the lower end for what a logarithmic axis does not show."""
        scaled = value if not self.log else math.log(value) if value > 0 else self.low
        return self.length * (scaled - self.low) / (self.high - self.low) if self.high > self.low else self.length / 2


def ends(values: Sequence[float], errors: Sequence[float | None]) -> list[float]:
    """Both ends of the error bar of every value, which without one are the value."""
    return [value + sign * (error or 0.0) for value, error in zip(values, errors or [None] * len(values), strict=True)
            for sign in (-1, 1)]


def label(series: Series, across: Scale, up: Scale) -> Label:
    """The name right of the series' last point, or of its error bar."""
    rights = ends(series.x, series.x_error)[1::2]
    last = max(range(len(rights)), key=rights.__getitem__)
    left, at = across.pixels(rights[last]) + GAP, up.pixels(series.y[last])
    box = Box(left, left + LETTER * len(series.name), at - LINE / 2, at + LINE / 2)
    return Label(series.name, rights[last], series.y[last], box)


def boxes(series: Series, across: Scale, up: Scale) -> list[Box]:
    """What the series' marks and error bars take."""
    sides, heights = ([axis.pixels(end) for end in ends(values, errors)] for axis, values, errors in (
        (across, series.x, series.x_error), (up, series.y, series.y_error)))
    out = []
    for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        at, level = across.pixels(x), up.pixels(y)
        out += [Box(at - MARK, at + MARK, min(level - MARK, heights[2 * i]), max(level + MARK, heights[2 * i + 1])),
                Box(sides[2 * i], sides[2 * i + 1], level - 1, level + 1)]
    return out
