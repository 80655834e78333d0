"""The comparison of many runs as files: tables and figures for people and programs, and a page with all of them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffprune.files import appearing, remove
from diffprune.report import page, samples
from diffprune.report.channel_charts import overlap, widths
from diffprune.report.chart import Chart, Matrix
from diffprune.report.comparison import (
    compare,
    configurations,
    protocol_differences,
    protocol_of,
    sentence,
    version_differences,
)
from diffprune.report.drawn import Drawing, drawn, file_name
from diffprune.report.finished import Finished
from diffprune.report.paired import CHOSEN, NOTE, compare_paired
from diffprune.report.provenance import Missing, missing_table, not_measured, provenance, provenance_html
from diffprune.report.published import Published
from diffprune.report.quality_charts import quality_charts
from diffprune.report.run_page import write_page
from diffprune.report.script import SCRIPT
from diffprune.report.table import Table
from diffprune.report.timestep_charts import loss_per_timestep

OWN_PAGES = 5       # so many missing pages of runs are made along the way, a second each; more are the runs' own business
READING = ("Mean ± standard deviation (number of seeds) where a configuration ran with several; percentages are of the "
           "dense model; sizes are those that were achieved, whatever was asked for; – means not measured.")
BOLD = "Bold is the best mean of a column, whether or not it is beyond the seeds' noise."


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows. `named` are the configurations with their runs, dense ones among them."""
    runs: list[Finished]
    named: list[tuple[str, list[Finished]]]
    tables: dict[str, Table | None]
    figures: list[tuple[Chart | Matrix, Drawing]]
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
    files: dict[str, str | bytes | None] = {"index.html": comparison_page(shown, folder.resolve())}
    for name, table in shown.tables.items():
        files |= formats(name, table)
    for name, text in files.items():
        write(folder / name, text)
    pictures = {f"{file_name(chart.name)}{end}": content for chart, drawing in shown.figures
                for end, content in ((".svg", drawing.svg), (".png", drawing.png))}
    for grid in shown.grids:
        pictures |= samples.pictures(grid)
    for stale in {path.name for path in (folder / "figures").glob("*")} - pictures.keys():
        remove(folder / "figures" / stale)
    for name, content in pictures.items():
        write(folder / "figures" / name, content)
    return shown.tables["table"]


def comparison(runs: list[Finished], mixed_protocols: bool, baseline: str | None, published: Published | None,
               missing: Sequence[Missing], title: str | None) -> Comparison:
    """Computes and draws; writes nothing."""
    table, paired = compare(runs, mixed_protocols, published=published), compare_paired(runs, baseline)
    differing = list(protocol_differences(runs))
    named = configurations(runs, differing)
    everyone = [*named, *(("dense", [run]) for run in runs if run.is_dense)]
    charts = [*quality_charts(runs, differing), *loss_per_timestep(runs), overlap(named), widths(named)]
    tables = {"table": table, "paired": paired, "runs": provenance(everyone),
              "missing": missing_table([*missing, *not_measured(named)])}
    return Comparison(runs, named, tables, [(chart, drawn(chart)) for chart in charts if chart is not None],
                      samples.sample_grids(everyone), published, paired is not None and baseline is None,
                      title or ("One run" if len(runs) == 1 else f"Comparison of {len(runs)} runs"))


def write(path: Path, content: str | bytes | None) -> None:
    """None: what an earlier report on other runs left goes."""
    if content is None:
        remove(path)
        return
    with appearing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def formats(name: str, table: Table | None) -> dict[str, str | None]:
    """{file: its text}; None for a table that there is not."""
    return {f"{name}.md": table and table.markdown(bold=True), f"{name}.csv": table and table.csv(),
            f"{name}.tex": table and table.latex()}


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
    from plotly.offline import get_plotlyjs

    paired, missing = shown.tables["paired"], shown.tables["missing"]
    sections = {
        "Results": [page.sortable(shown.tables["table"], "wide"), *(page.paragraph(note, "quiet") for note in notes(shown))],
        "Figures": figures(shown.figures),
        "Samples": [part for grid in shown.grids for part in sample_section(grid)],
        "Beyond the seeds' noise?": [page.paragraph(NOTE), page.sortable(paired, "wide"),
                                     page.paragraph(CHOSEN, "quiet") if shown.chosen else ""] if paired else [],
        "Protocol": [page.columns(page.facts("What all runs share", shared_protocol(shown.runs)))],
        "How each number was made": [page.folded(f"Commands, sources and seconds of {len(shown.runs)} runs", provenance_html(
            shown.tables["runs"], shown.runs, folder))],
        "What is missing": [page.table(missing.header, missing.body, "prose")] if missing else [
            page.paragraph("Nothing: every run that was named is finished and complete.")],
    }
    sections = {title: content for title, content in sections.items() if any(content)}
    data = json.dumps([chart.content() for chart, _ in shown.figures], allow_nan=False).replace("</", "<\\/")
    return page.document(shown.title, [
        page.paragraph(summary(shown), "summary"), page.contents(sections),
        *(page.section(title, *content) for title, content in sections.items()),
        f'<script type="application/json" id="figure-data">{data}</script>'], [get_plotlyjs(), SCRIPT])


def summary(shown: Comparison) -> str:
    """One sentence on what is compared."""
    seeds = sorted({run.options["seed"] for run in shown.runs})
    models = sorted({f"{run.metrics['model']} on {run.metrics['dataset']}" for run in shown.runs})
    return (f"{counted(len(shown.runs), 'run')} of {counted(len(shown.named), 'configuration')} with "
            f"{counted(len(seeds), 'seed')}: {'; '.join(models)}. {READING}")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def figures(drawings: list[tuple[Chart | Matrix, Drawing]]) -> list[str]:
    """Each drawn already, for where no script runs and for print; the script puts what moves in its place."""
    shown = (f'<figure><h3>{page.escape(chart.title)}</h3><div class="plot" id="plot-{page.escape(chart.name)}" role="img" '
             f'aria-label="{page.escape(chart.alt)}">{drawing.inline}</div>'
             f"<figcaption>{page.escape(chart.caption)}{numbered(chart)}</figcaption></figure>"
             for chart, drawing in drawings)
    return [f'<div class="figures large">{"".join(shown)}</div>'] if drawings else []


def numbered(chart: Chart | Matrix) -> str:
    """The names that an axis only counts."""
    if isinstance(chart, Chart) or not chart.numbered:
        return ""
    return f"<ol>{''.join(f'<li>{page.name(label)}</li>' for label in chart.labels)}</ol>"


def sample_section(grid: samples.Samples) -> list[str]:
    left_out = f" {counted(grid.left_out, 'more configuration')} found no room here." if grid.left_out else ""
    return [page.paragraph(f"{grid.title}. Every row starts from the same noise, every column is a model, each "
                           f"configuration's first seed. An image opens larger beside the others of its noise.{left_out}"),
            samples.table(grid)]


def notes(shown: Comparison) -> list[str]:
    """What a reader of the table must know before trusting it."""
    protocols, versions = protocol_differences(shown.runs), version_differences(shown.runs)
    out = [BOLD] if shown.tables["table"].best else []
    if protocols:
        out.append(f"Not all rows compare, their protocols differ: {sentence(protocols)}.")
    if versions:
        out.append(f"Made with different versions: {sentence(versions)}.")
    if shown.published and any("published" in title for title in shown.tables["table"].header):
        stated = dict.fromkeys(shown.published.protocol(run) for run in shown.runs)
        out += [f"Published numbers are those of their authors' protocol: {text}." for text in stated if text]
    return out


def shared_protocol(runs: list[Finished]) -> dict[str, object]:
    differing = protocol_differences(runs)
    stated = {name: value for run in runs for name, value in protocol_of(run).items() if value is not None}
    return {name: value for name, value in stated.items() if name not in differing}
