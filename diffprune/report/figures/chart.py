"""What a figure shows, whatever draws it: plotly on a page, Matplotlib in a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LONG = 20       # letters of a name on an axis
DENSE = -1      # the colour of what stands for the dense model


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Series:
    """Points under one name. `labels` say each point's name; errors are standard deviations, None where there is none.

    `colour` counts through the palette, whose colours come with a mark each; `line` joins the points.
    """
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
class Stop:
    """A named place on the x axis."""
    x: float
    name: str


@dataclass(frozen=True)
class Absent:
    """A figure that there is not, and why."""
    title: str
    reason: str


@dataclass(frozen=True)
class Chart:
    """`name` is its file's and unique on its page; `x` and `y` are axis titles with units; `alt` says what one would see.

    `spans` are stretches of the x axis that are shaded.
    """
    name: str
    title: str
    caption: str
    alt: str
    x: str
    y: str
    series: Sequence[Series]
    stops: Sequence[Stop] = ()
    log_y: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    spans: Sequence[tuple[float, float]] = ()

    def content(self) -> dict[str, Any]:
        return {"kind": "chart", **asdict(self)}


@dataclass(frozen=True)
class Matrix:
    """`values` [n, n] in 0 … 1 between the things that `labels` name; None where there is none."""
    name: str
    title: str
    caption: str
    alt: str
    unit: str
    labels: Sequence[str]
    values: Sequence[Sequence[float | None]] = field(repr=False)

    @property
    def numbered(self) -> bool:
        """Whether the axes count, since the names are too long to stand beside each other."""
        return max(map(len, self.labels)) > LONG

    def content(self) -> dict[str, Any]:
        return {"kind": "matrix", "numbered": self.numbered, **asdict(self)}
