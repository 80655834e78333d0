"""What was measured as a table; the same from a file where it was kept."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

# Column, what a line calls it, and how it is written; a column that no line has anything for is left out.
COLUMNS = (("", "case", "{}"), ("way", "way", "{}"), ("seconds", "seconds", "{:.3g}"),
           ("times as fast", "times_as_fast", "{:.2f}"), ("MB above the start", "extra_mb", "{:,.0f}"),
           ("first call, seconds", "first_call", "{:.3g}"), ("pays from call", "pays_from", "{:,}"), ("", "note", "{}"))


def table(lines: Sequence[dict[str, Any]], style: str = "simple") -> str:
    """One row per line, in one of tabulate's styles."""
    columns = [column for column in COLUMNS if any(line.get(column[1]) is not None for line in lines)]
    rows = [[written.format(line[name]) if name in line else "" for _, name, written in columns] for line in lines]
    return tabulate(rows, [head for head, _, _ in columns], style, disable_numparse=True,
                    colalign=["left" if written == "{}" else "right" for _, _, written in columns])
