"""Tables for people (terminal, Markdown, LaTeX, cells for a page) and for programs (CSV)."""

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from diffprune.report.rows import Row, Spread

MISSING, NOTHING = "–", Spread(None, None, 0)
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$", "×": r"$\times$",
         "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


@dataclass(frozen=True)
class Quantity:
    """How a measured value is shown: times `scale`, with `decimals` but at least three digits that count.

    `share` names the quantity that is the same in percent of the dense model.
    """
    key: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    share: str | None = None

    def cell(self, row: Row) -> str:
        """`19.85 (55.5 %)`, over seeds `5.29 ± 0.12 (3)`: mean, standard deviation and their number."""
        spread = row.values.get(self.key)
        if spread is None:
            return MISSING
        places = decimals(spread.mean * self.scale, self.decimals)
        text = f"{spread.mean * self.scale:.{places}f}"
        if spread.std is not None and (spread.std or self.share is None):
            text += f" ± {spread.std * self.scale:.{places}f} ({spread.n})"
        return f"{text} ({row.values[self.share].mean:.1f} %)" if self.share else text


def decimals(value: float, least: int) -> int:
    """Decimal places that leave at least three significant digits."""
    return least if value == 0 else max(least, 2 - math.floor(math.log10(abs(value))))


def quantities(rows: list[Row]) -> list[Quantity]:
    """Those of every table, with one Fréchet distance per kind of features: two kinds never share a column."""
    known = {key for row in rows for key in row.values}
    features = sorted({key.removeprefix("fid_") for key in known if key.startswith("fid_")})
    unhealed = [
        *(Quantity(f"unhealed_fid_{name}", f"Fréchet distance before healing ({name} features) ↓") for name in features),
        Quantity("unhealed_ssim", "SSIM before healing ↑", decimals=3)]
    return [
        Quantity("params", "parameters [M]", 1e-6, share="params_percent"),
        Quantity("macs", "MACs [G]", 1e-9, share="macs_percent"),
        *(Quantity(f"fid_{name}", f"Fréchet distance ({name} features) ↓") for name in features),
        Quantity("ssim", "SSIM to dense ↑", decimals=3),
        *(quantity for quantity in unhealed if quantity.key in known),
        Quantity("images_per_second", "images/s ↑", decimals=0),
        Quantity("speedup", "speed-up [×] ↑"),
    ]


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


def transposed(rows: list[Row]) -> Table:
    """One column per row's title, one line per quantity: the shape for a few models."""
    shown = quantities(rows)
    body = [[quantity.title, *(quantity.cell(row) for row in rows)] for quantity in shown]
    return Table(["", *(row.title for row in rows)], body, [record(row, "model", shown) for row in rows])


def listed(rows: list[Row], columns: list[str]) -> Table:
    """One line per row, with the entries `columns` of what it is about after its title: the shape for many."""
    shown = quantities(rows)
    body = [[row.title, *(said(row.about.get(name)) for name in columns), *(quantity.cell(row) for quantity in shown)]
            for row in rows]
    return Table(["configuration", *columns, *(quantity.title for quantity in shown)], body,
                 [record(row, "configuration", shown) for row in rows])


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
