"""Our numbers beside the published ones: what matches, what differs, what was not run, what does not compare and why."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diffprune.files import read_json
from diffprune.report.quantities import MISSING
from diffprune.report.rows import Spread
from experiments.cells import Cell
from experiments.declared import Row, Table
from experiments.published import conditions, find

STDS, SHARE = 3, 0.02       # the tolerance: so many standard deviations over seeds, this share of the published value
RULE = (f"A number matches where it is within {STDS} standard deviations over its seeds, or within {SHARE:.0%} of the "
        "published value, whichever is more; else it differs. Sizes are compared always; quality only under the published "
        "conditions.")


@dataclass(frozen=True)
class Quantity:
    """A number of `metrics.json`, shown times `scale`; published numbers come in that unit."""
    key: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    is_size: bool = False


SIZES = (Quantity("params", "parameters [M]", 1e-6, 3, True), Quantity("macs", "MACs [G]", 1e-9, 4, True),
         Quantity("total_macs", "MACs of an image, all steps [G]", 1e-9, 2, True))
QUALITY = (Quantity("fid", "Fréchet distance ↓"), Quantity("ssim", "SSIM to dense ↑", decimals=4),
           Quantity("inception_score", "Inception score ↑"), Quantity("precision", "precision ↑", decimals=4),
           Quantity("recall", "recall ↑", decimals=4))
BESIDE = (Quantity("fid_before_healing", "Fréchet distance before healing ↓"),
          Quantity("ssim_before_healing", "SSIM before healing ↑", decimals=4), Quantity("speedup", "speed-up [×] ↑"))
SHOWN = ("params", "macs", "fid", "ssim")       # in every table that has them; the others where they are published


@dataclass(frozen=True)
class Line:
    """A row of a table: our runs of it, one per seed, and what is published of it."""
    row: Row
    cells: list[Cell]
    runs: list[dict[str, Any]]
    published: dict[str, Any]
    conditions: dict[str, Any]

    @classmethod
    def of(cls, table: Table, row: Row, cells: list[Cell]) -> "Line":
        found = find(table.source, table.dataset, row.published) if row.published else {}
        runs = [measured(cell) for cell in cells if cell.run.metrics.exists()]
        return cls(row, cells, runs, found, conditions(table.source, table.dataset) if found else {})

    def ours(self, quantity: Quantity) -> Spread | None:
        values = [run.get(quantity.key) for run in self.runs]
        return Spread.of(value and value * quantity.scale for value in values)

    def theirs(self, quantity: Quantity) -> float | None:
        return self.published.get(quantity.key)

    def difference(self, quantity: Quantity) -> float | None:
        ours, theirs = self.ours(quantity), self.theirs(quantity)
        return None if ours is None or theirs is None else ours.mean - theirs

    def status(self, quantity: Quantity) -> str:
        """matches, differs, not run, not comparable: why, or nothing published."""
        ours, theirs = self.ours(quantity), self.theirs(quantity)
        if ours is None:
            return self.not_run()
        if theirs is None:
            return "nothing published"
        if not quantity.is_size and (reasons := self.reasons()):
            return f"not comparable: {'; '.join(reasons)}"
        return "matches" if matches(ours, theirs) else "differs"

    def not_run(self) -> str:
        """Why there is no number."""
        if self.runs:
            return "not measured"
        states = [cell.standing for cell in self.cells]
        reason = next((f": {now.reason}" for now in states if now.reason), "")
        told = next((now.state for now in states if now.state in ("running", "failed", "stopped")), "")
        return f"not run ({told}{reason})" if told else "not run"

    def reasons(self) -> list[str]:
        """In what our runs were not made as the published number was."""
        differing = {}
        for run in self.runs:
            for name, wanted in self.conditions.items():
                allowed = wanted if isinstance(wanted, list) else [wanted]
                if run["conditions"].get(name) not in allowed:
                    differing[name] = f"{name} {run['conditions'].get(name)}, published {' or '.join(map(str, allowed))}"
            steps = self.published.get("steps")
            if steps and self.published.get("method") != "dense" and run["conditions"]["trained"] != steps:
                differing["trained"] = f"trained for {run['conditions']['trained']} steps, published {steps}"
        return list(differing.values())

    def summary(self, quantities: Sequence[Quantity]) -> str:
        """One status for the row."""
        compared = [quantity for quantity in quantities if self.theirs(quantity) is not None]
        if not self.runs:
            return self.not_run()
        seeds = "" if len(self.runs) == len(self.cells) else f" ({len(self.runs)} of {len(self.cells)} seeds)"
        if not compared:
            return f"nothing published{seeds}"
        statuses = {quantity: self.status(quantity) for quantity in compared}
        said = [status for status in dict.fromkeys(statuses.values()) if status not in ("matches", "differs")]
        for verdict in ("differs", "matches"):
            if names := [shown(self, quantity, verdict) for quantity, status in statuses.items() if status == verdict]:
                said.insert(0, f"{verdict}: {', '.join(names)}")
        return "; ".join(said) + seeds


def shown(line: Line, quantity: Quantity, verdict: str) -> str:
    return quantity.key if verdict == "matches" else f"{quantity.key} {line.difference(quantity):+.{quantity.decimals}f}"


def measured(cell: Cell) -> dict[str, Any]:
    """What a finished cell's metrics say, with its total MACs and the conditions it was made under."""
    metrics, options = read_json(cell.run.metrics), cell.options
    evaluations = options["sampler"]["steps"] * (2 if options["sampler"].get("guidance") not in (None, 1.0) else 1)
    made_under = metrics["protocol"] | {"features": metrics["features"], "images": metrics["images"],
                                        "ratio": options["pruner"].get("ratio"), "trained": options["schedule"]["steps"]}
    return metrics | {"total_macs": metrics["macs"] * evaluations, "conditions": made_under}


def matches(ours: Spread, theirs: float) -> bool:
    return abs(ours.mean - theirs) <= max(STDS * (ours.std or 0.0), SHARE * abs(theirs))


def quantities(lines: Iterable[Line], axis: str) -> list[Quantity]:
    """What a table of `lines` shows: the usual, what is published of them, and what is on its picture's `axis`."""
    lines = list(lines)
    said = {key for line in lines for key in line.published} | {*SHOWN, axis}
    known = {key for line in lines for run in line.runs for key, value in run.items() if value is not None}
    return [*(one for one in (*SIZES, *QUALITY) if one.key in said), *(one for one in BESIDE if one.key in known)]


def markdown(lines: Sequence[Line], shown: Sequence[Quantity]) -> str:
    """The table for people: ours, then what is published of it, then the status."""
    theirs = [one for one in shown if any(line.theirs(one) is not None for line in lines)]
    header = ["", *(one.title for one in shown), *(f"published: {one.title}" for one in theirs), "status"]
    rule = [":--", *["--:"] * (len(shown) + len(theirs)), ":--"]
    body = [[line.row.title, *(spread(line.ours(one), one) for one in shown),
             *(MISSING if line.theirs(one) is None else f"{line.theirs(one):g}" for one in theirs), line.summary(shown)]
            for line in lines]
    return "".join(f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |\n" for row in (header, rule, *body))


def spread(ours: Spread | None, quantity: Quantity) -> str:
    """Mean ± standard deviation (number of seeds)."""
    if ours is None:
        return MISSING
    text = f"{ours.mean:.{quantity.decimals}f}"
    return f"{text} ± {ours.std:.{quantity.decimals}f} ({ours.n})" if ours.std else text


def records(lines: Sequence[Line], shown: Sequence[Quantity]) -> str:
    """CSV for programs: one line for each row and quantity, numbers at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "quantity", "ours", "ours_std", "seeds", "published", "difference", "status"])
    for line in lines:
        for one in shown:
            ours = line.ours(one) or Spread(None, None, 0)
            writer.writerow([line.row.title, one.key, ours.mean, ours.std, ours.n, line.theirs(one), line.difference(one),
                             line.status(one)])
    return out.getvalue()
