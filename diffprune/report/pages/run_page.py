"""The page of one run, from which its tables and figures can be saved as files."""

import math
from pathlib import Path

from omegaconf import OmegaConf

from diffprune.report.figures.channels import in_order, width_chart
from diffprune.report.figures.losses import held_out_curve, held_out_loss, scoring_pass, training_loss
from diffprune.report.finished import Finished
from diffprune.report.pages.files import drawings, figure_files, table_files, write
from diffprune.report.pages.page import page
from diffprune.report.pages.runs_table import absent, lacking, text_table
from diffprune.report.pages.samples import own_samples
from diffprune.report.tables.protocol import protocol_of
from diffprune.report.tables.rows import dense, distance, states
from diffprune.report.tables.table import Table, transposed


def write_page(run: Finished) -> Path:
    """Writes the run's `report.html`, whole or not at all, and returns its path."""
    pruned = [(run.final, run.pruning["layers"])] if run.is_pruned and run.pruning.get("layers") else []
    figures = [scoring_pass(run), width_chart(pruned), training_loss(run), held_out_loss(run), held_out_curve(run)]
    grid = own_samples(run)
    skipped = [(entry["layer"], entry["reason"]) for entry in run.pruning.get("skipped", [])]
    tables = {"table": transposed(states(run)), "layers": layers(run),
              "left": text_table({"layer": "left as it was", "reason": "because"}, skipped),
              "missing": text_table({"missing": "missing", "because": "because"}, [*lacking(run), *absent(figures)])}
    shown, metrics = drawings(figures), run.metrics
    content = page(
        "run.html", title=f"{f'{metrics.pruner} on' if run.is_pruned else run.final} {metrics.model}", run=run,
        metrics=metrics, dense_distance=dense(run)[distance(run)], tables=tables, figures=shown, grid=grid,
        protocol=protocol_of(run), seconds={stage: f"{elapsed:.1f}" for stage, elapsed in metrics.seconds.items()},
        options=OmegaConf.to_yaml(run.options), files=table_files(tables) | figure_files(shown, [grid] if grid else []))
    write(run.run.report.parent, {run.run.report.name: content})
    return run.run.report


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
