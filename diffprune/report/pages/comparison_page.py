"""The comparison of many runs as files: tables and figures for people and programs, and a page with all of them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprune.report.figures.channels import overlap, widths
from diffprune.report.figures.chart import counted
from diffprune.report.figures.quality import quality_charts
from diffprune.report.figures.render import scripts
from diffprune.report.figures.timesteps import loss_per_timestep
from diffprune.report.finished import Finished
from diffprune.report.pages import samples
from diffprune.report.pages.files import Drawings, drawings, figure_files, table_files, write, write_listed
from diffprune.report.pages.page import asset, page
from diffprune.report.pages.run_page import write_page
from diffprune.report.pages.runs_table import Missing, absent, lacking_seeds, missing_table, not_measured, provenance
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.configurations import configurations
from diffprune.report.tables.paired import CHOSEN, NOTE, compare_paired
from diffprune.report.tables.protocol import (
    differences,
    protocol_differences,
    protocol_of,
    sentence,
    version_differences,
    versions_of,
)
from diffprune.report.tables.published import Published
from diffprune.report.tables.table import Table

MANIFEST = ".files"     # the names of the figures that a report wrote, one a line
OWN_PAGES = 5       # so many missing pages of runs are made along the way, a second each; more are the runs' own business
READING = ("Mean ± standard deviation (number of seeds) where a configuration ran with several; percentages are of the "
           "dense model; sizes are those that were achieved, whatever was asked for; – means not measured.")
BOLD = "Bold is the best mean of a column, whether or not it is beyond the seeds' noise."


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows; `table`, the main one, is among `tables`.

    `named` are the configurations with their runs; dense runs have no other name than `dense` and are not among them.
    """
    runs: list[Finished]
    named: list[tuple[str, list[Finished]]]
    table: Table
    tables: dict[str, Table | None]
    figures: Drawings
    grids: list[samples.Samples]
    published: Published | None
    chosen: bool        # nobody named the baseline of the paired comparison
    title: str


def write_comparison(runs: list[Finished], folder: Path, mixed_protocols: bool = False, baseline: str | None = None,
                     published: Published | None = None, missing: Sequence[Missing] = (),
                     title: str | None = None) -> Table:
    """Writes the page `index.html`, every table (md, csv, tex) and every figure (png, svg) into `folder`.

    Returns the main table. `missing` are things that are not there, with the reason, for the page's last table. Raises
    UserError, before anything is written, for runs that do not compare or a baseline that is none of them.
    """
    shown = comparison(runs, mixed_protocols, baseline, published, missing, title)
    own_pages(runs)
    write_listed(folder / "figures", figure_files(shown.figures, shown.grids), MANIFEST)
    write(folder, table_files(shown.tables) | {"index.html": comparison_page(shown, folder.resolve())})
    return shown.table


def comparison(runs: list[Finished], mixed_protocols: bool, baseline: str | None, published: Published | None,
               missing: Sequence[Missing], title: str | None) -> Comparison:
    """Computes and draws; writes nothing."""
    table, paired = compare(runs, mixed_protocols, published=published), compare_paired(runs, baseline)
    differing = list(protocol_differences(runs))
    named = configurations(runs, differing)
    everyone = [*named, *(("dense", [run]) for run in runs if run.is_dense)]
    charts = [*quality_charts(runs, differing), *loss_per_timestep(runs), overlap(named), widths(named)]
    tables = {"table": table, "paired": paired, "runs": provenance(everyone),
              "missing": missing_table([*missing, *not_measured(runs), *lacking_seeds(named), *absent(charts)])}
    return Comparison(runs, named, table, tables, drawings(charts), samples.sample_grids(everyone), published,
                      paired is not None and baseline is None,
                      title or ("One run" if len(runs) == 1 else f"Comparison of {len(runs)} runs"))


def own_pages(runs: list[Finished]) -> None:
    """Gives a few runs their own page where that is missing or older than their numbers and their folder can be written."""
    old = [run for run in runs if not current(run) and os.access(run.run.folder, os.W_OK)]
    for run in old if len(old) <= OWN_PAGES else ():
        write_page(run)


def current(run: Finished) -> bool:
    report, metrics = run.run.report, run.run.metrics
    return report.exists() and report.stat().st_mtime >= metrics.stat().st_mtime


def comparison_page(shown: Comparison, folder: Path) -> str:
    """The page as it will lie in `folder`, from where it links to the runs' own reports."""
    return page(
        "comparison.html", [scripts(), asset("figures.js")] if shown.figures else [], title=shown.title,
        summary=summary(shown), tables=shown.tables, notes=notes(shown), figures=shown.figures, grids=shown.grids,
        paired_note=NOTE, chosen=CHOSEN if shown.chosen else "", runs=counted(len(shown.runs), "run"),
        shared_protocol=shared(map(protocol_of, shown.runs)), shared_versions=shared(map(versions_of, shown.runs)),
        links=reports(shown.runs, folder))


def summary(shown: Comparison) -> str:
    """One sentence on what is compared."""
    seeds = sorted({run.options["seed"] for run in shown.runs})
    models = sorted({f"{run.metrics['model']} on {run.metrics['dataset']}" for run in shown.runs})
    return (f"{counted(len(shown.runs), 'run')} of {counted(len(shown.named), 'configuration')} with "
            f"{counted(len(seeds), 'seed')}: {'; '.join(models)}. {READING}")


def notes(shown: Comparison) -> list[str]:
    """What a reader of the table must know before trusting it."""
    protocols, versions = protocol_differences(shown.runs), version_differences(shown.runs)
    out = [BOLD] if shown.table.best else []
    if protocols:
        out.append(f"Not all rows compare, their protocols differ: {sentence(protocols)}.")
    if versions:
        out.append(f"Made with different versions: {sentence(versions)}.")
    if shown.published and any("published" in title for title in shown.table.header):
        stated = dict.fromkeys(shown.published.protocol(run) for run in shown.runs)
        out += [f"Published numbers are those of their authors' protocol: {text}." for text in stated if text]
    return out


def shared(statements: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What all that state it state alike."""
    stated = list(statements)
    differing = differences(stated)
    return {name: value for statement in stated for name, value in statement.items()
            if value is not None and name not in differing}


def reports(runs: list[Finished], folder: Path) -> dict[str, str]:
    """{run: the address of its own page, as seen from `folder`}"""
    return {run.run.name: os.path.relpath(run.run.report, folder) for run in runs if run.run.report.exists()}
