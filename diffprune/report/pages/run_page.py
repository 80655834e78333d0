"""The page of one run, from which its tables and figures can be saved as files."""

import math
from pathlib import Path

from omegaconf import OmegaConf

from diffprune.report.figures.channels import in_order, widths
from diffprune.report.figures.chart import Absent
from diffprune.report.figures.losses import held_out_curve, held_out_loss, scoring_pass, training_loss
from diffprune.report.figures.render import scripts
from diffprune.report.finished import Finished
from diffprune.report.pages.files import Contents, drawings, figure_files, sample_files, table_files, together, write
from diffprune.report.pages.page import asset, data_url, page, shown_images
from diffprune.report.pages.runs_table import absent, lacking, made_at, text_table
from diffprune.report.pages.samples import MORE, NOISES, own_samples, previews
from diffprune.report.pages.tiles import tiles
from diffprune.report.tables.protocol import protocol_of
from diffprune.report.tables.rows import Row, states
from diffprune.report.tables.table import Table, transposed

IMAGES, FURTHER, PREVIEWS = 250_000, 120_000, 50_000    # bytes of the first images of a run's page, the others, its previews


def write_page(run: Finished) -> Path:
    """Writes the run's `report.html`, whole or not at all, and returns its path."""
    # The tables and figures.
    curve = held_out_curve(run)
    trained = [curve if not isinstance(curve, Absent) else training_loss(run)] if run.is_trained else []
    figures = [*trained, held_out_loss(run), scoring_pass(run), widths([(run.final, [run])], "")]
    skipped = [(entry["layer"], entry["reason"]) for entry in run.pruning.get("skipped", [])]
    models = beside_dense(states(run))
    tables = {"table": transposed(models), "layers": layers(run),
              "not-pruned": text_table({"layer": "left as it was", "reason": "because"}, skipped),
              "missing": text_table({"missing": "missing", "because": "because"}, [*lacking(run), *absent(figures)])}
    # The images, those beyond the first on demand.
    grid, steps = own_samples(run), previews(run)
    grids = [] if grid is None else [(part, shown_images(part, budget)) for first, end, budget in
                                     ((0, NOISES, IMAGES), (NOISES, MORE, FURTHER))
                                     if (part := grid.part(first, end)).noises]
    shown, metrics, model = drawings(figures), run.metrics, run.folder_of_model
    final = [row for row in models if row.title != run.before_healing]
    saved = together(table_files(tables)) | sample_files([grid.part(0, NOISES)] if grid else [])
    files = {name: addresses(contents) for name, contents in figure_files(shown).items()}
    content = page(
        "run.html", [scripts(), asset("figures.js")] if shown else [],
        title=f"{f'{metrics.pruner} on' if run.is_pruned else run.final} {metrics.model}", run=run, metrics=metrics,
        summary=f"{metrics.model} on {metrics.dataset}: {run.final}. {run.run.name}",
        tiles=tiles(transposed(final), metrics.features, [run.steps]), tables=tables, figures=shown, grids=grids,
        similar=bool(metrics.first_ssim), previews=[] if steps is None else [(steps, shown_images(steps, PREVIEWS))],
        model=model, loads=f'import diffprune; pipeline = diffprune.load_pipeline("{model}")',
        protocol=protocol_of(run), seconds={stage: f"{elapsed:.1f}" for stage, elapsed in metrics.seconds.items()},
        options=OmegaConf.to_yaml(run.options), footer=made_at([run]),
        files=files | {"tables": addresses(saved)})
    write(run.run.report.parent, {run.run.report.name: content})
    return run.run.report


def addresses(contents: Contents) -> dict[str, str]:
    """{file: its content as a data URL}"""
    return {file: data_url(content, file) for file, content in contents.items()}


def beside_dense(models: list[Row]) -> list[Row]:
    """The dense model, beside it the one with which the run ends, and then that before its training: on a narrow screen the
    first two are seen."""
    first, *rest = models
    return [first, *reversed(rest)]


def layers(run: Finished) -> Table | None:
    """The shape and the size of every layer's weight, dense and pruned; None where nothing was pruned."""
    body, records = [], []
    for name, shape in in_order(run.pruning.get("layers", {})) if run.is_pruned else ():
        dense_shape, pruned_shape = shape["before"], shape["after"]
        dense_size, pruned_size = math.prod(dense_shape), math.prod(pruned_shape)
        body.append([name, " × ".join(map(str, dense_shape)), " × ".join(map(str, pruned_shape)), f"{dense_size:,}",
                     f"{pruned_size:,}", f"{100 * pruned_size / dense_size:.1f}"])
        records.append({"layer": name, "before": " ".join(map(str, dense_shape)), "after": " ".join(map(str, pruned_shape))})
    header = ["layer", "shape before", "shape after", "weights before", "weights after", "left [%]"]
    return Table(header, body, records) if body else None
