"""Tables for people (terminal, Markdown, LaTeX, cells for a page) and for programs (CSV)."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tabulate import tabulate

from diffprune.report.tables.quantities import MISSING, REPORT, Quantity, quantities
from diffprune.report.tables.rows import Row

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$", "×": r"$\times$",
         "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


@dataclass(frozen=True)
class Table:
    """`header` and `body` are cells as people read them; `records` hold the numbers behind them at full precision.

    `best` are the (line, column) of cells that are printed in bold; `numbers` are what to sort the lines of `body` by, None
    where a cell is no number, and empty where their text will do.
    """
    header: list[str]
    body: list[list[str]]
    records: list[dict[str, Any]]
    best: frozenset[tuple[int, int]] = frozenset()
    numbers: list[list[float | None]] = field(default_factory=list)

    def text(self) -> str:
        header = [title.replace(" (", "\n(") for title in self.header]
        return tabulate(self.body, header, "simple", disable_numparse=True, colalign=self.aligned("left", "right"))

    def markdown(self, bold: bool = False) -> str:
        """With the best in `bold`, if wanted."""
        rule = [{"l": ":--", "r": "--:"}[side] for side in self.aligned("l", "r")]
        body = self.marked(lambda cell: f"**{cell}**") if bold else self.body
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (self.header, rule, *body)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """A tabular for the booktabs package, the best in bold."""
        lines = [[latex(cell) for cell in line] for line in self.body]
        lines = replace(self, body=lines).marked(lambda cell: rf"\textbf{{{cell}}}")
        header, *body = (" & ".join(line) + r" \\" for line in (map(latex, self.header), *lines))
        sides = "".join(self.aligned("l", "r"))
        return "\n".join([rf"\begin{{tabular}}{{{sides}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule",
                          r"\end{tabular}", ""])

    def marked(self, bold: Callable[[str], str]) -> list[list[str]]:
        """The body, with what is best in `bold`."""
        return [[bold(cell) if (i, j) in self.best else cell for j, cell in enumerate(line)]
                for i, line in enumerate(self.body)]

    def csv(self) -> str:
        """One line per record; what was not measured is an empty field."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(self.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return out.getvalue()

    def aligned(self, first: str, others: str) -> list[str]:
        return [first] + [others] * (len(self.header) - 1)


def latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def transposed(rows: list[Row], level: int = REPORT) -> Table:
    """One column per row's title, one line per quantity up to `level`: the shape for a few models."""
    known = quantities(rows)
    body = [[quantity.title, *(quantity.cell(row) for row in rows)] for quantity in known if quantity.level <= level]
    return Table(["", *(row.title for row in rows)], body, [record(row, "model", known) for row in rows])


def listed(rows: list[Row], columns: list[str], level: int = REPORT, published: bool = False) -> Table:
    """One line per row, with the entries `columns` of what it is about after its title, then the quantities up to `level`.

    The shape for many models; the records hold every quantity. What is only `published` is shown where that is asked for.
    """
    known = quantities(rows, published)
    shown = [quantity for quantity in known if quantity.level <= level or any(quantity.key in row.published for row in rows)]
    parts = [part for quantity in shown for part in columns_of(quantity, rows)]
    body = [[row.title, *(stated(row.about.get(name)) for name in columns), *(part.cell(row) for part in parts)]
            for row in rows]
    numbers = [[None, *(None for _ in columns), *(part.number(row) for part in parts)] for row in rows]
    best = () if columns else best_cells(rows, parts)
    return Table(["configuration", *columns, *(part.title for part in parts)], body,
                 [record(row, "configuration", known, rows) for row in rows], frozenset(best), numbers)


@dataclass(frozen=True)
class Column:
    """A column: a quantity as it was measured here, or as it was published."""
    quantity: Quantity
    published: bool

    @property
    def title(self) -> str:
        return self.quantity.published_title if self.published else self.quantity.title

    def cell(self, row: Row) -> str:
        return self.quantity.published_cell(row) if self.published else self.quantity.cell(row)

    def number(self, row: Row) -> float | None:
        key = self.quantity.key
        return row.published.get(key) if self.published else mean(row, key)


def columns_of(quantity: Quantity, rows: list[Row]) -> list[Column]:
    """The measured column, and the published one where any row has such a number, alone where nothing was measured."""
    measured, published = (any(quantity.key in numbers for numbers in known) for known in (
        [row.values for row in rows], [row.published for row in rows]))
    return [*([Column(quantity, False)] if measured or not published else []),
            *([Column(quantity, True)] if published else [])]


def best_cells(rows: list[Row], parts: list[Column]) -> Iterator[tuple[int, int]]:
    """(line, column) of the best means among configurations, as printed, where at least two differ.

    The dense model does not compete, and neither do images/s, which depend on what else the machine does.
    """
    for column, part in enumerate(parts, start=1):
        rivals = {i: part.number(row) for i, row in enumerate(rows) if not row.title.startswith("dense")}
        rivals = {i: mean for i, mean in rivals.items() if mean is not None}
        if part.published or not part.quantity.arrow or part.quantity.key == "images_per_second" or len(rivals) < 2:
            continue
        best = (max if part.quantity.arrow == "↑" else min)(rivals.values())
        shown = {i: part.quantity.mean(rows[i]) for i in rivals}
        winner = shown[next(i for i, mean in rivals.items() if mean == best)]
        if len(set(shown.values())) > 1:
            yield from ((i, column) for i, text in shown.items() if text == winner)


def stated(value: Any) -> str:
    return MISSING if value is None else str(value)


def record(row: Row, title: str, shown: list[Quantity], rows: Sequence[Row] = ()) -> dict[str, Any]:
    """Mean, standard deviation and number of values of every quantity, None and 0 where there are none.

    Published numbers are there for what is published of any of `rows`, since all records have the same names.
    """
    numbers: dict[str, Any] = {title: row.title, **row.about}
    for quantity in shown:
        spread = row.values.get(quantity.key)
        numbers |= {quantity.key: mean(row, quantity.key), f"{quantity.key}_std": spread and spread.std,
                    f"{quantity.key}_n": spread.n if spread else 0}
        if any(quantity.key in other.published for other in rows):
            numbers[f"{quantity.key}_published"] = row.published.get(quantity.key)
        if quantity.share:
            numbers[quantity.share] = mean(row, quantity.share)
    return numbers


def mean(row: Row, key: str) -> float | None:
    return row.values[key].mean if key in row.values else None
