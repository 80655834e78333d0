"""The page of one run, from which its tables and figures can be saved as files."""

import math
from pathlib import Path

from omegaconf import OmegaConf

from diffprune.report.figures.channels import width_chart
from diffprune.report.figures.chart import Absent, Figure
from diffprune.report.figures.layers import in_order
from diffprune.report.figures.timesteps import scoring_pass
from diffprune.report.figures.training import training_loss
from diffprune.report.finished import Finished
from diffprune.report.pages.files import drawings, figure_files, table_files, write
from diffprune.report.pages.page import page
from diffprune.report.pages.runs_table import absent, lacking, missing_table
from diffprune.report.pages.samples import own_samples
from diffprune.report.tables.protocol import protocol_of, versions_of
from diffprune.report.tables.rows import dense, distance, final, states
from diffprune.report.tables.table import Table, transposed


def write_page(run: Finished) -> Path:
    """Writes the run's `report.html`, whole or not at all, and returns its path."""
    figures, grid = figures_of(run), own_samples(run)
    tables = {"table": transposed(states(run)), "layers": layers(run), "left": skipped(run),
              "missing": missing_table([*lacking(run), *absent(figures)])}
    shown = drawings(figures)
    content = page(
        "run.html", title=title(run), summary=summary(run), name=run.run.name, reading=reading(run), tables=tables,
        figures=shown, grid=grid, metrics=run.metrics, protocol=protocol_of(run), versions=versions_of(run),
        seconds={stage: f"{elapsed:.1f}" for stage, elapsed in run.metrics["seconds"].items()},
        options=OmegaConf.to_yaml(run.options), files=table_files(tables) | figure_files(shown, [grid] if grid else []))
    write(run.run.report.parent, {run.run.report.name: content})
    return run.run.report


def figures_of(run: Finished) -> list[Figure | Absent]:
    """Scoring, pruning, training."""
    pruned = [(run.final, run.pruning["layers"])] if run.is_pruned and run.pruning.get("layers") else []
    return [scoring_pass(run), width_chart(pruned), training_loss(run)]


def title(run: Finished) -> str:
    model = run.metrics["model"]
    return f"{run.metrics['pruner']} on {model}" if run.is_pruned else f"{run.final} {model}"


def summary(run: Finished) -> str:
    """One sentence: what was done, the sizes that were achieved, and what it cost in quality."""
    metrics, before, after = run.metrics, dense(run), final(run)
    end = f"Fréchet distance ({metrics['features']} features) {after[distance(run)]:.2f}"
    if before[distance(run)] is not None and not run.is_dense:
        end += f", where the dense model has {before[distance(run)]:.2f}"
    if not run.is_pruned:
        return (f"{metrics['model']} on {metrics['dataset']}, {run.final}: {metrics['params'] / 1e6:.3g} M parameters, "
                f"{metrics['macs'] / 1e9:.3g} G MACs, {end}.")
    trained = f" and trained for {run.options['schedule']['steps']} steps" if run.is_trained else ""
    params, macs = (f"{metrics[size] * scale:.3g} {unit} ({after[size + '_percent']:.1f} % of "
                    f"{metrics[size + '_dense'] * scale:.3g} {unit})"
                    for size, scale, unit in (("params", 1e-6, "M"), ("macs", 1e-9, "G")))
    return (f"{metrics['model']} on {metrics['dataset']}, pruned by {metrics['pruner']}{trained}: "
            f"parameters {params}, MACs {macs}, {end}.")


def reading(run: Finished) -> str:
    """What the table's words mean for this run."""
    return (f"Fréchet distance between {run.metrics['images']} drawn images and the data set, on {run.metrics['features']} "
            "features; distances on other features do not compare. SSIM, like PSNR and RMSE where they were measured, pairs "
            "images from the same noise. "
            "MACs are for one network evaluation of one image. – means not measured.")


def skipped(run: Finished) -> Table | None:
    """The layers that were left as they were, and why."""
    entries = [[entry["layer"], entry["reason"]] for entry in run.pruning.get("skipped", [])]
    return Table(["left as it was", "because"], entries, [{"layer": layer, "reason": reason} for layer, reason in entries]) \
        if entries else None


def layers(run: Finished) -> Table | None:
    """Every layer's weight shape and size before and after."""
    shapes = [(name, shape["before"], shape["after"]) for name, shape in in_order(run.pruning.get("layers", {}))]
    if not shapes or not run.is_pruned:
        return None
    counts = [(math.prod(before), math.prod(after)) for _, before, after in shapes]
    return Table(
        ["layer", "shape before", "shape after", "weights before", "weights after", "left [%]"],
        [[name, " × ".join(map(str, before)), " × ".join(map(str, after)), f"{old:,}", f"{new:,}", f"{100 * new / old:.1f}"]
         for (name, before, after), (old, new) in zip(shapes, counts, strict=True)],
        [{"layer": name, "before": " ".join(map(str, before)), "after": " ".join(map(str, after))}
         for name, before, after in shapes],
        numbers=[[None, old, new, old, new, new / old] for old, new in counts])
