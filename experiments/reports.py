"""A table's report as files: Markdown, CSV, a picture, and the page with every run's samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffprune.files import appearing
from diffprune.report import write_comparison
from diffprune.report.comparison import protocol_differences
from diffprune.report.finished import Finished
from diffprune.report.published import Published
from experiments.beside import RULE, Line, markdown, quantities, records
from experiments.cells import Plan
from experiments.declared import Table
from experiments.picture import picture
from experiments.published import FILE as PUBLISHED


def write_report(plan: Plan, name: str, out: Path, page: bool = True) -> str:
    """Writes `<name>.md`, `.csv`, `.svg` into `out`, for a `page` `<name>/index.html`; returns the table and where it is."""
    table = next(table for table, _, _ in plan.rows if table.name == name)
    lines = [Line.of(table, row, cells) for of, row, cells in plan.rows if of.name == name]
    shown = quantities(lines, table.figure.get("x", ""))
    drawn = picture(table, lines, shown)
    body = markdown(lines, shown)
    files = {f"{name}.md": document(table, lines, body, drawn is not None), f"{name}.csv": records(lines, shown),
             f"{name}.svg": drawn}
    for file, text in files.items():
        if text is not None:
            with appearing(out / file) as partial:
                partial.write_text(text, encoding="utf-8")
    finished = [Finished.of(cell.folder) for line in lines for cell in line.cells if cell.run.metrics.exists()]
    if page and finished:
        write_comparison(finished, out / name, bool(protocol_differences(finished)), published=Published.read(PUBLISHED),
                         missing=missing(lines), title=f"{table.name}: {table.about}")
    return f"{body}\n{out / name}.md" + (f"\n{out / name / 'index.html'}" if page and finished else "")


def missing(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """(cell, why) for every cell without numbers."""
    cells = [cell for line in lines for cell in line.cells if not cell.run.metrics.exists()]
    return [(cell.name, f"{now.state}: {now.reason}" if now.reason else now.state)
            for cell, now in ((cell, cell.standing) for cell in cells)]


def document(table: Table, lines: Sequence[Line], body: str, pictured: bool) -> str:
    """The Markdown file: the table, how its numbers were made, and what its status means."""
    said = [f"# {table.name}: {table.about}", body.rstrip()]
    if pictured:
        said.append(f"![{table.about}]({table.name}.svg)")
    said.append(f"Mean ± standard deviation (number of seeds). {RULE}")
    said.append(f"Made by `python -m experiments run {table.name}`, then `python -m experiments report {table.name}`.")
    said += provenance(lines)
    return "\n\n".join(said) + "\n"


def provenance(lines: Sequence[Line]) -> list[str]:
    """On what, with what and under which protocol the runs were made."""
    runs: list[dict[str, Any]] = [run for line in lines for run in line.runs]
    if not runs:
        return []
    about = {name: {run.get(name) for run in runs} for name in ("features", "images", "device", "commit")}
    about |= {name: {run.get("versions", {}).get(name) for run in runs} for name in ("python", "torch", "diffusers")}
    hours = sum(sum(run["seconds"].values()) for run in runs) / 3600
    told = "; ".join(f"{name} {', '.join(sorted(str(value) for value in values if value is not None))}"
                     for name, values in about.items() if values != {None}) + f"; {hours:.1f} hours of runs in all"
    return [f"Runs: {told}."]

