"""What a figure shows: plain numbers and words, which `vega_lite` turns into a specification."""

from collections.abc import Sequence
from dataclasses import dataclass, field

LONG = 20       # letters of a name on an axis of a matrix
DENSE = -1      # the colour of the dense model


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Series:
    """Points under one name. `labels` name each point; errors are standard deviations, None where there is none. `colour`
    counts through the palette, whose colours come with a mark and a dash each; `line` joins the points."""
    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    x_error: Sequence[float | None] = ()
    y_error: Sequence[float | None] = ()
    colour: int = 0
    line: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be drawn, and why."""
    title: str
    reason: str


@dataclass(frozen=True)
class Figure:
    """`name` is its file's and unique on its page; `alt` says what one would see. `made` is a line on the images, seeds and
    protocol behind it, which stands in the files too."""
    name: str
    title: str
    caption: str
    alt: str
    made: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Chart(Figure):
    """`x` and `y` are axis titles with units; `stops` and `ticks` name places on the x axis, `spans` shade some of it. Of
    the stops those `in_use` stand out, the others say their name to the mouse."""
    x: str
    y: str
    series: Sequence[Series]
    stops: Sequence[tuple[float, str]] = ()
    in_use: frozenset[str] = frozenset()
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    spans: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Matrix(Figure):
    """`values` [n, n] in 0 … 1 between the things that `labels` name; None where there is none."""
    unit: str
    labels: Sequence[str]
    values: Sequence[Sequence[float | None]] = field(repr=False)

    @property
    def numbered(self) -> bool:
        """Whether the axes show numbers, because the names are too long to stand side by side."""
        return max(map(len, self.labels)) > LONG


@dataclass(frozen=True)
class Dots(Figure):
    """One line per row: (row, its value for every seed, the published value or None); `x` is the axis title. The `dense`
    model's value is a line across all rows."""
    x: str
    rows: Sequence[tuple[str, Sequence[float], float | None]]
    log_x: bool = False
    dense: float | None = None


@dataclass(frozen=True)
class Panels(Figure):
    """Several figures side by side."""
    panels: Sequence[Chart | Dots]
