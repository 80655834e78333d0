"""The comparison of many runs as files: its table for people and programs, and a page with each run's samples."""

import os
from html import escape
from pathlib import Path

from diffprune.files import appearing, remove
from diffprune.report import page
from diffprune.report.comparison import compare, protocol_differences, protocol_of, sentence, version_differences
from diffprune.report.finished import Finished
from diffprune.report.grid import strips
from diffprune.report.paired import CHOSEN, NOTE, compare_paired
from diffprune.report.run_page import write_page
from diffprune.report.table import Table


def write_comparison(runs: list[Finished], folder: Path, mixed_protocols: bool = False,
                     baseline: str | None = None) -> Table:
    """Writes `index.html`, the table and the paired comparison (md, csv, tex) into `folder`, and the pages that runs lack.

    Raises UserError, before anything is written, for runs that do not compare or a baseline that is none of them.
    """
    table, paired = compare(runs, mixed_protocols), compare_paired(runs, baseline)
    for run in runs:
        refresh(run)
    chosen = paired is not None and baseline is None
    files = {"index.html": comparison_page(runs, table, folder.resolve(), paired, chosen), **formats("table", table),
             **formats("paired", paired)}
    for name, text in files.items():
        if text is None:
            remove(folder / name)       # of an earlier report on other runs
            continue
        with appearing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return table


def formats(name: str, table: Table | None) -> dict[str, str | None]:
    """{file: its text}; None for a table that there is not."""
    return {f"{name}.md": table and table.markdown(), f"{name}.csv": table and table.csv(),
            f"{name}.tex": table and table.latex()}


def refresh(run: Finished) -> None:
    """Gives the run its own page where that is missing or older than its numbers and its folder can be written."""
    report, metrics = run.run.report, run.run.metrics
    current = report.exists() and report.stat().st_mtime >= metrics.stat().st_mtime
    if not current and os.access(run.run.folder, os.W_OK):
        write_page(run)


def comparison_page(runs: list[Finished], table: Table, folder: Path, paired: Table | None, chosen: bool) -> str:
    """The page as it will lie in `folder`, from where it links to the runs' own reports.

    `chosen`: nobody named the baseline of the `paired` comparison.
    """
    return page.document(f"Comparison of {len(runs)} runs" if len(runs) > 1 else "One run", [
        page.paragraph("Mean ± standard deviation (number of runs) where a configuration ran with several seeds; "
                       "percentages are of the dense model; – means not measured."),
        page.table(table.header, table.body, "wide"),
        *(page.paragraph(note, "quiet") for note in notes(runs)),
        page.section("Beyond the seeds' noise?", page.paragraph(NOTE), page.table(paired.header, paired.body, "wide"),
                     page.paragraph(CHOSEN, "quiet") if chosen else "") if paired else "",
        page.section("Protocol", page.columns(page.facts("What all runs share", shared_protocol(runs)))),
        page.section("Runs", *(run_section(run, folder) for run in runs)),
    ])


def notes(runs: list[Finished]) -> list[str]:
    """What a reader of the table must know before trusting it."""
    protocols, versions = protocol_differences(runs), version_differences(runs)
    out = []
    if protocols:
        out.append(f"Not all rows compare, their protocols differ: {sentence(protocols)}.")
    if versions:
        out.append(f"Made with different versions: {sentence(versions)}.")
    return out


def shared_protocol(runs: list[Finished]) -> dict[str, object]:
    differing = protocol_differences(runs)
    stated = {name: value for run in runs for name, value in protocol_of(run).items() if value is not None}
    return {name: value for name, value in stated.items() if name not in differing}


def run_section(run: Finished, folder: Path) -> str:
    report = page.link("its own report", os.path.relpath(run.run.report, folder)) if run.run.report.exists() else ""
    return "\n".join([f"<h3>{escape(run.run.name)}</h3>", report, page.pictures(strips(run))])
