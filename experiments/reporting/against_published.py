"""Our numbers beside the published ones: what matches, what differs, what was not run, what does not compare and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from diffprune.config.schema import evaluations
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import grouped
from diffprune.report.tables.protocol import entries_of, protocol_differences, protocol_of, sentence
from diffprune.report.tables.published import PUBLISHED_ON, UNKNOWN, Published, numbers
from diffprune.report.tables.quantities import MAIN, Quantity, quantities
from diffprune.report.tables.rows import Numbers, Spread, compared, dense
from diffprune.report.tables.rows import Row as Measured
from diffprune.report.tables.table import Table as Shown
from diffprune.report.tables.table import listed
from diffprune.runtime.errors import UserError
from experiments.planning.cells import Cell
from experiments.planning.declarations import Row, Table

FILE = Path(__file__).parents[1] / "published.yaml"
STDS, FRACTION = 3, 0.02    # the tolerance: standard deviations over seeds, and this fraction of the published value
RULE = (f"A number matches where it is within {STDS} standard deviations over its seeds, or within {FRACTION:.0%} of the "
        "published value, whichever is more; else it differs. Sizes are compared always; quality only under the published "
        "conditions.")
TOTAL = "total_macs"                        # MACs of an image, all its steps: the axis of some tables
SIZES = ("params", "macs", TOTAL)
PROTOCOL = ("sampler.", "evaluate.")        # the options that a protocol states


@cache
def published() -> Published:
    """The published numbers that the tables point to."""
    return Published.read(FILE)


@dataclass(frozen=True)
class Line:
    """A row of a table: our runs of it, one per seed, and what is published of it; `axis` is that of the table's figure."""
    row: Row
    cells: list[Cell]
    runs: list[Finished]
    published: dict[str, Any]
    conditions: dict[str, Any]
    axis: str = ""

    @classmethod
    def of(cls, table: Table, row: Row, cells: list[Cell]) -> "Line":
        reference = published().find(table.source, table.dataset, row.published) if row.published else {}
        runs = [Finished.of(cell.folder) for cell in cells if cell.run.metrics.exists()]
        return cls(row, cells, runs, reference, published().conditions(table.source, table.dataset, reference.get("method"))
                   if reference else {}, table.figure.get("x", ""))

    @cached_property
    def numbers(self) -> list[Numbers]:
        """What was measured of each run, with the MACs of all its steps where these are the figure's axis."""
        return [(dense(run) if run.is_dense else compared(run)) | (
            {TOTAL: run.metrics.macs * evaluations(run.options["sampler"])} if self.axis == TOTAL else {})
            for run in self.runs]

    @cached_property
    def measured(self) -> Measured:
        """Over the seeds, with the published numbers in the same units."""
        return Measured.of(self.row.title, self.numbers, published=numbers(self.published))

    def ours(self, quantity: Quantity) -> Spread | None:
        """What our runs measured, over the seeds; None where none did."""
        return self.measured.values.get(quantity.key)

    def theirs(self, quantity: Quantity) -> float | None:
        """The published number in the units of ours; None where there is none."""
        return self.measured.published.get(quantity.key)

    def status(self, quantity: Quantity) -> str:
        """`matches`, `differs`, `not run`, `not measured`, `not comparable: …` with the reason, or `nothing published`."""
        ours, theirs = self.ours(quantity), self.theirs(quantity)
        if not self.runs:
            return self.not_run()
        if theirs is None:
            return "not measured" if ours is None else "nothing published"
        if quantity.key not in SIZES and (reasons := self.reasons()):
            return f"not comparable: {'; '.join(reasons)}"
        if ours is None:
            return "not measured"
        return "matches" if matches(ours, theirs) else "differs"

    def not_run(self) -> str:
        """Why there is no run."""
        states = [cell.status for cell in self.cells]
        reason = next((f": {now.reason}" for now in states if now.reason), "")
        state = next((now.state for now in states if now.state in ("running", "failed", "stopped")), "")
        return f"not run ({state}{reason})" if state else "not run"

    def reasons(self) -> list[str]:
        """In what our runs were not made as the published number was, or may not have been."""
        differing = {}
        for run in self.runs:
            steps, wanted_steps = run.steps, self.published.get("steps")
            own = protocol_of(run) | {"images": run.metrics.images, "ratio": run.options["pruner"].get("ratio"),
                                      "trained": steps}
            for name, wanted in self.conditions.items():
                allowed = wanted if isinstance(wanted, list) else [wanted]
                if wanted == UNKNOWN:
                    differing[name] = f"{name} {UNKNOWN}"
                elif own.get(name) not in allowed:
                    differing[name] = f"{name} {own.get(name)}, published {' or '.join(map(str, allowed))}"
            if wanted_steps and self.published.get("method") != "dense" and steps != wanted_steps:
                differing["trained"] = f"trained for {steps} steps, published {wanted_steps}"
        return list(differing.values())

    def summary(self, shown: Sequence[Quantity]) -> str:
        """One status for the row: what matches, what differs and by how much, what does not compare."""
        if not self.runs:
            return self.not_run()
        seeds = "" if len(self.runs) == len(self.cells) else f" ({len(self.runs)} of {len(self.cells)} seeds)"
        statuses = {quantity: self.status(quantity) for quantity in shown if self.theirs(quantity) is not None}
        sentences = [status for status in dict.fromkeys(statuses.values()) if status not in ("matches", "differs")]
        for verdict in ("differs", "matches"):
            if names := [self.named(quantity, verdict) for quantity, status in statuses.items() if status == verdict]:
                sentences.insert(0, f"{verdict}: {', '.join(names)}")
        return ("; ".join(sentences) or "nothing published") + seeds

    def named(self, quantity: Quantity, verdict: str) -> str:
        """The quantity, and how far ours is off where it differs."""
        name, ours, theirs = quantity.key.removesuffix(f"_{PUBLISHED_ON}"), self.ours(quantity), self.theirs(quantity)
        if verdict == "matches" or ours is None or theirs is None:
            return name
        return f"{name} {(ours.mean - theirs) * quantity.scale:+.{quantity.decimals}f}"

    def apart(self) -> Iterator["Line"]:
        """A line for each protocol under which its runs were made, so that no mean is over several."""
        differing = list(protocol_differences(self.runs))
        groups = grouped(self.runs, lambda run: entries_of(run, differing))
        if len(groups) < 2:
            yield self
            return
        for runs in groups:
            protocol = ", ".join(f"{name} {value}" for name, value in entries_of(runs[0], differing).items())
            cells = [cell for cell in self.cells if cell.folder.resolve() in {run.run.folder.resolve() for run in runs}]
            yield replace(self, row=replace(self.row, title=f"{self.row.title} [{protocol}]"), cells=cells, runs=runs)


def matches(ours: Spread, theirs: float) -> bool:
    """Whether our mean is within the tolerance of the published number."""
    return abs(ours.mean - theirs) <= max(STDS * (ours.std or 0.0), FRACTION * abs(theirs))


def comparable(table: Table, lines: Sequence[Line], mixed_protocols: bool) -> list[Line]:
    """The lines that may be shown together; with `mixed_protocols`, those of several protocols divided. Raises UserError,
    without `mixed_protocols`, where protocols differ within a row, or between rows in a part that is no axis of the
    table."""
    if mixed_protocols:
        return [divided for line in lines for divided in line.apart()]
    within = {line.row.title: protocol_differences(line.runs) for line in lines}
    for runs, differing in [*within.items(), (table.name, mixed(table, lines))]:
        if differing:
            raise UserError(f"the runs of {runs} were made under different protocols ({sentence(differing)}), so their "
                            "numbers do not compare: repeat those that differ, or add --mixed-protocols to see each under "
                            "its own")
    return list(lines)


def mixed(table: Table, lines: Sequence[Line]) -> dict[str, list[Any]]:
    """{part of the protocol: its values} for what differs between rows that the table does not mean to differ."""
    differing = protocol_differences([run for line in lines for run in line.runs])
    return {name: values for name, values in differing.items() if name not in axes(table)}


def axes(table: Table) -> set[str]:
    """The parts of the protocol that the table's rows set, each to its own value."""
    protocols = [dict(text.split("=", 1) for text in row.overrides if text.startswith(PROTOCOL)) for row in table.rows]
    return {key.rpartition(".")[2] for own in protocols for key in own if len({other.get(key) for other in protocols}) > 1}


def beside(lines: Sequence[Line]) -> Shown:
    """The report's own table of the lines, then a status for each; its records have one for each published number too."""
    rows = [line.measured for line in lines]
    shown, every_quantity = listed(rows, [], MAIN, published=True), quantities(rows, published=True)
    compared_with = [one for one in every_quantity if any(one.key in row.published for row in rows)]
    status = [line.summary(every_quantity) for line in lines]
    records = [record | {f"{one.key}_status": line.status(one) for one in compared_with} | {"status": verdict}
               for line, record, verdict in zip(lines, shown.records, status, strict=True)]
    return replace(shown, header=[*shown.header, "status"], records=records,
                   body=[[*entries, verdict] for entries, verdict in zip(shown.body, status, strict=True)])
