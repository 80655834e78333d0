"""Tables for people (terminal, Markdown, LaTeX, cells for a page) and for programs (CSV)."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from diffprune.report.quantities import MISSING, REPORT, Quantity, quantities
from diffprune.report.rows import Row, Spread

NOTHING = Spread(None, None, 0)
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$", "×": r"$\times$",
         "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


@dataclass(frozen=True)
class Table:
    """`header` and `body` are cells as people read them; `records` hold the numbers behind them at full precision."""
    header: list[str]
    body: list[list[str]]
    records: list[dict[str, Any]]

    def text(self) -> str:
        header = [title.replace(" (", "\n(") for title in self.header]
        return tabulate(self.body, header, "simple", disable_numparse=True, colalign=self.aligned("left", "right"))

    def markdown(self) -> str:
        rule = [{"l": ":--", "r": "--:"}[side] for side in self.aligned("l", "r")]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (self.header, rule, *self.body)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """A tabular for the booktabs package."""
        header, *body = (" & ".join(map(latex, line)) + r" \\" for line in (self.header, *self.body))
        sides = "".join(self.aligned("l", "r"))
        return "\n".join([rf"\begin{{tabular}}{{{sides}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule",
                          r"\end{tabular}", ""])

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


def listed(rows: list[Row], columns: list[str], level: int = REPORT) -> Table:
    """One line per row, with the entries `columns` of what it is about after its title, then the quantities up to `level`.

    The shape for many models; the records hold every quantity.
    """
    known = quantities(rows)
    shown = [quantity for quantity in known if quantity.level <= level]
    body = [[row.title, *(said(row.about.get(name)) for name in columns), *(quantity.cell(row) for quantity in shown)]
            for row in rows]
    return Table(["configuration", *columns, *(quantity.title for quantity in shown)], body,
                 [record(row, "configuration", known) for row in rows])


def said(value: Any) -> str:
    return MISSING if value is None else str(value)


def record(row: Row, title: str, shown: list[Quantity]) -> dict[str, Any]:
    """Mean, standard deviation and number of values of every quantity, None and 0 where there are none."""
    numbers: dict[str, Any] = {title: row.title, **row.about}
    for quantity in shown:
        spread = row.values.get(quantity.key, NOTHING)
        numbers |= {quantity.key: spread.mean, f"{quantity.key}_std": spread.std, f"{quantity.key}_n": spread.n}
        if quantity.share:
            numbers[quantity.share] = row.values.get(quantity.share, NOTHING).mean
    return numbers
