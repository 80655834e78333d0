"""What was measured of each way of a case: the lines of one table."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from diffprune.evaluation.speed import Timing

# Column, what a line calls it, and how it is written; a column without any value is left out.
COLUMNS = (("", "case", "{}"), ("way", "way", "{}"), ("seconds", "seconds", "{:.3g}"),
           ("speed-up", "times_as_fast", "{:.2f}"), ("MB above the start", "extra_mb", "{:,.0f}"),
           ("first call, seconds", "first_call", "{:.3g}"), ("pays from call", "pays_from", "{:,}"), ("", "note", "{}"))


@dataclass(frozen=True)
class Line:
    """One way of one case: median `seconds`, and the median over the rounds of the baseline's time divided by this one's. Of
    a compiled way `first_call` has the seconds of the first call, and `pays_from` the number of calls after which it has
    taken less time than the same way uncompiled. None where it does not apply."""
    case: str
    way: str
    seconds: float
    times_as_fast: float | None = None
    extra_mb: float | None = None
    note: str = ""
    first_call: float | None = None
    pays_from: int | None = None

    def record(self) -> dict[str, str | float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def lines(case: str, timings: dict[str, Timing], baseline: str, notes: dict[str, str] | None = None,
          times: float = 1) -> Iterator[Line]:
    """One line per way of `case`, compared with the `baseline`, whose measured work the whole case does `times`."""
    for way, timing in timings.items():
        scale = times if way == baseline else 1
        ratio = 1.0 if way == baseline else timing.speedup_over(timings[baseline]) * times
        first_call = pays_from = None
        if "compiled" in way:
            first_call, pays_from = timing.first, timing.pays_from(timings[way.replace("compiled", "channels_last")])
        note = (notes or {}).get(way, "")
        yield Line(case, way, timing.median * scale, ratio, timing.extra_mb, note, first_call, pays_from)


def rate(macs: int, timing: Timing) -> str:
    """Multiply-accumulates per second, to be compared with those of a large matrix product."""
    return f"{macs / timing.median / 1e9:.3g} GMAC/s"


def table(records: Sequence[dict[str, Any]], style: str = "simple") -> str:
    """One row per line's record, in one of tabulate's styles."""
    columns = [column for column in COLUMNS if any(record.get(column[1]) is not None for record in records)]
    rows = [[written.format(record[name]) if name in record else "" for _, name, written in columns] for record in records]
    return tabulate(rows, [head for head, _, _ in columns], style, disable_numparse=True,
                    colalign=["left" if written == "{}" else "right" for _, _, written in columns])
