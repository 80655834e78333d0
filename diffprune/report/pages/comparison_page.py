"""The comparison of many runs as files: tables and figures for people and programs, and a page with all of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from diffprune.report.figures.channels import overlap, widths
from diffprune.report.figures.chart import counted
from diffprune.report.figures.losses import loss_per_timestep
from diffprune.report.figures.quality import quality_charts
from diffprune.report.figures.render import scripts
from diffprune.report.finished import Finished
from diffprune.report.pages.files import drawings, figure_files, table_files, write_listed
from diffprune.report.pages.page import asset, page
from diffprune.report.pages.run_page import write_page
from diffprune.report.pages.runs_table import Missing, absent, lacking_seeds, not_measured, provenance, text_table
from diffprune.report.pages.samples import sample_grids
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.configurations import configurations
from diffprune.report.tables.paired import compare_paired
from diffprune.report.tables.protocol import differences, protocol_differences, protocol_of, sentence, shared
from diffprune.report.tables.published import Published

MANIFEST = ".files"     # the names of the files that a report wrote, one a line
OWN_PAGES = 5       # so many missing pages of runs are made along the way, a second each; more are the runs' own business


def write_comparison(runs: list[Finished], folder: Path, mixed_protocols: bool = False, baseline: str | None = None,
                     published: Published | None = None, missing: Sequence[Missing] = (), title: str | None = None) -> None:
    """Writes the page `index.html`, every table (md, csv, tex) and every figure (png, svg) into `folder`. `missing` are
    things that are not there, with the reason, for the page's last table. Raises UserError, before anything is written, for
    runs that do not compare or a baseline that is none of them."""
    # The tables and figures.
    table, paired = compare(runs, mixed_protocols, published=published), compare_paired(runs, baseline)
    differing = list(protocol_differences(runs))
    named = configurations(runs, differing)
    everyone = [*named, *(("dense", [run]) for run in runs if run.is_dense)]
    charts = [*quality_charts(runs, differing), *loss_per_timestep(runs), overlap(named), widths(named)]
    missing = [*missing, *not_measured(runs), *lacking_seeds(named), *absent(charts)]
    tables = {"table": table, "paired": paired, "runs": provenance(everyone),
              "missing": text_table({"missing": "missing", "because": "because"}, missing)}
    figures, grids = drawings(charts), sample_grids(everyone)
    # The files; the page links to the runs' own pages.
    own_pages(runs)
    protocols = dict.fromkeys(published.protocol(run) for run in runs) if published else {}
    content = page(
        "comparison.html", [scripts(), asset("figures.js")] if figures else [],
        title=title or ("One run" if len(runs) == 1 else f"Comparison of {len(runs)} runs"), tables=tables, figures=figures,
        grids=grids, chosen=baseline is None, runs=counted(len(runs), "run"),
        configurations=counted(len(named), "configuration"),
        seeds=counted(len({run.options["seed"] for run in runs}), "seed"),
        models=sorted({f"{run.metrics.model} on {run.metrics.dataset}" for run in runs}),
        protocols=sentence(protocol_differences(runs)), versions=sentence(differences(run.metrics.versions for run in runs)),
        published=list(filter(None, protocols)), shared_protocol=shared(map(protocol_of, runs)),
        shared_versions=shared(run.metrics.versions for run in runs),
        links={run.run.name: os.path.relpath(run.run.report, folder.resolve()) for run in runs if run.run.report.exists()})
    files = {f"figures/{name}": drawn for name, drawn in figure_files(figures, grids).items()} | table_files(tables)
    write_listed(folder, files | {"index.html": content}, MANIFEST)


def own_pages(runs: list[Finished]) -> None:
    """Gives a few runs their own page where that is missing or older than their numbers and their folder can be written."""
    old = []
    for run in runs:
        page, numbers = run.run.report, run.run.metrics
        current = page.exists() and page.stat().st_mtime >= numbers.stat().st_mtime
        if not current and os.access(run.run.folder, os.W_OK):
            old.append(run)
    for run in old if len(old) <= OWN_PAGES else ():
        write_page(run)
