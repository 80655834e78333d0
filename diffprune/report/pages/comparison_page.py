"""The comparison of many runs as files: tables and figures for people and programs, and a page with all of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffprune.report.figures.channels import overlap, widths
from diffprune.report.figures.chart import counted
from diffprune.report.figures.losses import loss_per_timestep
from diffprune.report.figures.quality import quality_charts
from diffprune.report.figures.render import scripts
from diffprune.report.finished import Finished
from diffprune.report.pages.files import drawings, figure_files, sample_files, table_files, together, write_listed
from diffprune.report.pages.page import asset, page, shown_images
from diffprune.report.pages.run_page import write_page
from diffprune.report.pages.runs_table import (
    Missing,
    absent,
    lacking_seeds,
    made_at,
    not_measured,
    provenance,
    text_table,
)
from diffprune.report.pages.samples import sample_grids
from diffprune.report.pages.tiles import tiles
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.configurations import Named, configurations, grouped
from diffprune.report.tables.paired import BEYOND, HEADER, compare_paired
from diffprune.report.tables.protocol import differences, protocol_differences, protocol_of, sentence, shared
from diffprune.report.tables.published import Published
from diffprune.report.tables.table import MISSING, Table

MANIFEST = ".files"     # the names of the files that a report wrote, one a line
IMAGES = 500_000    # bytes of all images of a comparison
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
    drawn, listed = figure_files(figures), table_files(tables)
    # The page, with links to the runs' own pages.
    own_pages(runs)
    protocols = dict.fromkeys(published.protocol(run) for run in runs) if published else {}
    features = {run.metrics.features for run in runs}
    content = page(
        "comparison.html", [scripts(), asset("figures.js")] if figures else [],
        title=title or ("One run" if len(runs) == 1 else f"Comparison of {len(runs)} runs"), tables=tables, figures=figures,
        tiles=tiles(table, runs[0].metrics.features, sorted({run.steps for run in runs if not run.is_dense})),
        grids=[(grid, shown_images(grid, IMAGES // len(grids))) for grid in grids], verdicts=verdicts(paired),
        chosen=baseline is None, runs=counted(len(runs), "run"), configurations=counted(len(named), "configuration"),
        judged=judged(table, paired, runs[0].metrics.features), several=len(named) > 1,
        similar=any(run.metrics.first_ssim for run in runs),
        seeds=counted(len({run.options["seed"] for run in runs}), "seed"),
        models=sorted({f"{run.metrics.model} on {run.metrics.dataset}" for run in runs}),
        features=features.pop() if len(features) == 1 else "", footer=made_at(runs),
        protocols=sentence(protocol_differences(runs)), versions=sentence(differences(run.metrics.versions for run in runs)),
        published=list(filter(None, protocols)), shared_protocol=shared(map(protocol_of, runs)),
        shared_versions=shared(run.metrics.versions for run in runs), links=links(everyone, folder.resolve()),
        files={name: {file: f"figures/{file}" for file in files} for name, files in drawn.items()}
        | {name: {file: file for file in files} for name, files in listed.items()})
    pictures = {f"figures/{name}": drawing for name, drawing in (together(drawn) | sample_files(grids)).items()}
    write_listed(folder, pictures | together(listed) | {"index.html": content}, MANIFEST)


def links(named: Named, folder: Path) -> dict[str, str]:
    """{run, or configuration: the page of the run, or of the configuration's first run that has one}, as seen from `folder`.
    The page of a run is told the way back."""
    def address(page: Path) -> str:
        back = os.path.relpath(folder / "index.html", page.parent)
        return f"{quote(os.path.relpath(page, folder))}#from={quote(quote(back))}"

    pages = [(title, run.run) for title, runs in named for run in runs if run.run.report.exists()]
    first_seeds = {title: address(run.report) for title, run in reversed(pages)}
    return first_seeds | {run.name: address(run.report) for _, run in pages}


def judged(table: Table, paired: Table | None, features: str) -> Table:
    """The table with what the test says of each configuration's Fréchet distance in the second column."""
    said = {line["configuration"]: line["verdict"].removeprefix(BEYOND) for line in (paired.records if paired else ()) if
            line["quantity"] == f"fid_{features}"}
    baselines = {line["baseline"] for line in (paired.records if paired else ())}
    if not said:
        return table

    def after_first(cells: Sequence[Any], further: Any) -> list[Any]:
        return [cells[0], further, *cells[1:]]

    body = [after_first(line, "baseline" if line[0] in baselines else said.get(line[0], MISSING)) for line in table.body]
    return Table(after_first(table.header, "verdict on the distance"), body, table.records,
                 frozenset((i, j + 1) for i, j in table.best), after_first(table.groups, ""),
                 frozenset(j + 1 for j in table.hidden))


def verdicts(paired: Table | None) -> list[tuple[str, str, Table]]:
    """The differences of one quantity to one baseline after the other, with the verdict beside the configuration."""
    if paired is None:
        return []
    order = [HEADER.index(title) for title in ("configuration", "verdict", "difference", "95 % interval", "p", "p (Holm)")]
    groups = grouped(paired.body, lambda line: [line[HEADER.index("quantity")], line[HEADER.index("baseline")]])
    return [(lines[0][HEADER.index("quantity")], lines[0][HEADER.index("baseline")],
             Table([HEADER[i] for i in order], [[line[i] for i in order] for line in lines], [])) for lines in groups]


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
