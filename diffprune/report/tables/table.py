"""Tables for people (terminal, Markdown, LaTeX, cells for a page) and for programs (CSV)."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from diffprune.report.tables.quantities import GROUPS, MISSING, REPORT, Quantity, quantities
from diffprune.report.tables.rows import Row

LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "±": r"$\pm$",
    "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"})
# In a Markdown cell: what would end the cell, begin a tag, code or a link, or take the next sign's meaning away.
MARKDOWN = re.compile(r"[\\|`]|<(?=[A-Za-z/!?])|(?<=\])\(")
# What ends a line, or cannot be shown: control characters, halves of characters, what no XML may hold.
UNPRINTABLE = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+\s*")
FORMULA = ("=", "+", "-", "@", "\t", "\r")      # a spreadsheet calculates a cell of a CSV file that begins with one


@dataclass(frozen=True)
class Table:
    """`header` and `body` are cells as people read them; `records` hold the numbers behind them at full precision. `best`
    are the (line, column) of cells that are printed in bold. `groups` are the columns' headings where a reader may choose
    among them; those without a heading are always shown, and `hidden` ones only when chosen."""
    header: list[str]
    body: list[list[str]]
    records: list[dict[str, Any]]
    best: frozenset[tuple[int, int]] = frozenset()
    groups: Sequence[str] = ()
    hidden: frozenset[int] = frozenset()

    def text(self) -> str:
        """The table for a terminal."""
        header, *body = self.lines(str)
        return tabulate(body, [title.replace(" (", "\n(") for title in header], "simple", disable_numparse=True,
                        colalign=self.aligned("left", "right"))

    def markdown(self, bold: bool = False) -> str:
        """The table in GitHub's Markdown, with the best cells in `bold` if wanted."""
        header, *body = self.lines(as_markdown, "**{}**" if bold else "{}")
        return "".join(f"| {' | '.join(line)} |\n" for line in (header, self.aligned(":--", "--:"), *body))

    def latex(self) -> str:
        """The table as a tabular for the booktabs package, the best cells in bold."""
        lines = self.lines(lambda cell: cell.translate(LATEX), r"\textbf{{{}}}")
        header, *body = (" & ".join(line) + r" \\" for line in lines)
        sides = "".join(self.aligned("l", "r"))
        return "\n".join([rf"\begin{{tabular}}{{{sides}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule",
                          r"\end{tabular}", ""])

    def lines(self, escaped: Callable[[str], str], bold: str = "{}") -> list[list[str]]:
        """Header and body, each cell `escaped` and in one line, the best cells inserted into `bold`."""
        header, *body = [[escaped(printable(cell)) for cell in line] for line in (self.header, *self.body)]
        return [header, *([bold.format(cell) if (i, j) in self.best else cell for j, cell in enumerate(line)]
                          for i, line in enumerate(body))]

    def csv(self) -> str:
        """One line per record; what was not measured is an empty field. No text is read as a formula by a spreadsheet."""
        out = io.StringIO()
        for line in (self.records[0], *(record.values() for record in self.records)):
            csv.writer(out, lineterminator="\n").writerow(
                f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value for value in line)
        return out.getvalue()

    def aligned(self, first: str, others: str) -> list[str]:
        """An alignment for each column: texts in the `first`, numbers in the `others`."""
        return [first] + [others] * (len(self.header) - 1)


def printable(text: str) -> str:
    """`text` in one line, with a space for what no page, picture or terminal can show."""
    return UNPRINTABLE.sub(" ", text)


def as_markdown(text: str) -> str:
    """`text` in one line of Markdown that shows it as it is: no tag, code or link of it counts."""
    return MARKDOWN.sub(r"\\\g<0>", printable(text))


def transposed(rows: list[Row], level: int = REPORT) -> Table:
    """One column per row's title, one line per quantity up to `level`: the shape for a few models."""
    every_quantity = quantities(rows)
    shown = [quantity for quantity in every_quantity if quantity.level <= level]
    body = [[quantity.title, *(quantity.cell(row) for row in rows)] for quantity in shown]
    return Table(["", *(row.title for row in rows)], body, [record(row, "model", every_quantity) for row in rows])


def listed(rows: list[Row], columns: list[str], level: int = REPORT, published: bool = False) -> Table:
    """One line per row: its title, its labels of `columns`, then the quantities up to `level`, group by group; the shape for
    many models. The records hold every quantity. `published` shows what others alone have measured too."""
    every_quantity = quantities(rows, published)
    shown = [quantity for one in every_quantity if one.level <= level or any(one.key in row.published for row in rows)
             for quantity in measured_and_published(one, rows)]
    shown.sort(key=lambda quantity: GROUPS.index(quantity.group))
    before = ["configuration", *columns]
    body = [[row.title, *(MISSING if (label := row.labels.get(name)) is None else str(label) for name in columns),
             *(quantity.cell(row) for quantity in shown)] for row in rows]
    return Table([*before, *(quantity.title for quantity in shown)], body,
                 [record(row, "configuration", every_quantity, rows) for row in rows],
                 frozenset(() if columns else best_cells(rows, shown)),
                 [*("" for _ in before), *(one.group for one in shown)],
                 frozenset(i for i, one in enumerate(shown, len(before)) if not (one.first or one.published)))


def measured_and_published(quantity: Quantity, rows: list[Row]) -> list[Quantity]:
    """The quantity, and as published where any row has such a number, then alone where nothing was measured."""
    if not any(quantity.key in row.published for row in rows):
        return [quantity]
    return [*([quantity] if any(quantity.key in row.values for row in rows) else []), quantity.as_published]


def best_cells(rows: list[Row], shown: list[Quantity]) -> Iterator[tuple[int, int]]:
    """(line, column) of the best means among configurations, as printed, where at least two differ. The dense model does not
    compete, and neither do images/s, which depend on what else the machine does."""
    for column, quantity in enumerate(shown, start=1):
        rivals = {i: mean for i, row in enumerate(rows)
                  if not row.title.startswith("dense") and (mean := row.mean(quantity.key)) is not None}
        if quantity.published or not quantity.arrow or quantity.key == "images_per_second" or len(rivals) < 2:
            continue
        texts = {i: quantity.mean(rows[i]) for i in rivals}
        winner = texts[(max if quantity.arrow == "↑" else min)(rivals, key=rivals.__getitem__)]
        if len(set(texts.values())) > 1:
            yield from ((i, column) for i, text in texts.items() if text == winner)


def record(row: Row, title: str, shown: list[Quantity], rows: Sequence[Row] = ()) -> dict[str, Any]:
    """Mean, standard deviation and number of values of every quantity, None and 0 where there are none. Published numbers
    are there for what is published of any of `rows`, since all records have the same names."""
    numbers: dict[str, Any] = {title: row.title, **row.labels}
    for quantity in shown:
        key, spread = quantity.key, row.values.get(quantity.key)
        numbers |= {key: row.mean(key), f"{key}_std": spread and spread.std, f"{key}_n": spread.n if spread else 0}
        if any(key in other.published for other in rows):
            numbers[f"{key}_published"] = row.published.get(key)
        if quantity.percent_key:
            numbers[quantity.percent_key] = row.mean(quantity.percent_key)
    return numbers
