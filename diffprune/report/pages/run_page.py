"""The page of one run, which its tables and figures can be taken from as files."""

import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from diffprune.report.figures.channels import width_chart
from diffprune.report.figures.chart import Absent, Chart
from diffprune.report.figures.layers import in_order
from diffprune.report.figures.timesteps import walk
from diffprune.report.figures.training import healing
from diffprune.report.finished import Finished
from diffprune.report.pages import page, sections
from diffprune.report.pages.runs_table import absent, lacking, missing_table
from diffprune.report.pages.samples import own_samples
from diffprune.report.pages.script import TOUCH
from diffprune.report.tables.rows import dense, distance, final, states
from diffprune.report.tables.table import Table, transposed


def write_page(run: Finished) -> Path:
    """Writes the run's `report.html`, whole or not at all."""
    found = charts(run)
    tables = {"table": transposed(states(run)), "layers": layers(run), "left": skipped(run),
              "missing": missing_table([*lacking(run), *absent(found)])}
    shown, grid = sections.drawings(found), own_samples(run)
    files = sections.table_files(tables) | sections.picture_files(shown, [grid] if grid else [])
    sections.write(run.run.report, page.document(
        f"{run.metrics['pruner']} on {run.metrics['model']}" if run.is_pruned else f"{run.final} {run.metrics['model']}", [
            page.paragraph(summary(run), "summary"),
            page.paragraph(run.run.name, "quiet"),
            page.section("Results", page.table(tables["table"].header, tables["table"].body),
                         page.paragraph(reading(run), "quiet")),
            page.section("Figures", *sections.figures(shown)),
            page.section("Samples", *(sections.sample_section(grid) if grid else [])),
            page.section("Layers", *layer_tables(tables)),
            page.section("How it was made", made(run)),
            page.section("What is missing", *sections.missing_section(tables["missing"], "Nothing.")),
            page.section("Files", page.paragraph("Every table and figure of this page, to save."), page.downloads(files)),
        ], [TOUCH]))
    return run.run.report


def charts(run: Finished) -> list[Chart | Absent]:
    """Scoring, pruning, training."""
    pruned = [(run.final, run.pruning["layers"])] if run.is_pruned and run.pruning.get("layers") else []
    return [walk(run), width_chart(pruned), healing(run)]


def summary(run: Finished) -> str:
    """One sentence: what was done, the sizes that were achieved, and what it cost in quality."""
    known, before, after = run.metrics, dense(run), final(run)
    end = f"Fréchet distance ({known['features']} features) {after[distance(run)]:.2f}"
    if before[distance(run)] is not None and not run.is_dense:
        end += f", where the dense model has {before[distance(run)]:.2f}"
    if not run.is_pruned:
        return (f"{known['model']} on {known['dataset']}, {run.final}: {known['params'] / 1e6:.3g} M parameters, "
                f"{known['macs'] / 1e9:.3g} G MACs, {end}.")
    healed = f" and trained for {run.options['schedule']['steps']} steps" if run.is_trained else ""
    params, macs = (f"{known[size] * scale:.3g} {unit} ({after[size + '_percent']:.1f} % of "
                    f"{known[size + '_dense'] * scale:.3g} {unit})"
                    for size, scale, unit in (("params", 1e-6, "M"), ("macs", 1e-9, "G")))
    return (f"{known['model']} on {known['dataset']}, pruned by {known['pruner']}{healed}: "
            f"parameters {params}, MACs {macs}, {end}.")


def reading(run: Finished) -> str:
    """What the table's words mean for this run."""
    known = run.metrics
    return (f"Fréchet distance between {known['images']} drawn images and the data set, on {known['features']} "
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


def layer_tables(tables: Mapping[str, Table | None]) -> list[str]:
    """What was left as it was; every layer, folded away."""
    kept, every = tables["left"], tables["layers"]
    return [*([page.table(kept.header, kept.body, "prose")] if kept else []),
            *([page.folded(f"Weights of all {len(every.body)} layers", page.sortable(every))] if every else [])]


def made(run: Finished) -> str:
    known = run.metrics
    seconds = {stage: f"{elapsed:.1f}" for stage, elapsed in known["seconds"].items()}
    commit = page.paragraph(f"Source at commit {known['commit']}.", "quiet") if known.get("commit") else ""
    return "\n".join([
        page.preformatted(known["command"]) if known.get("command") else "", commit,
        page.columns(page.facts("Protocol", {"features": known["features"], **known["protocol"]}),
                     page.facts("Versions", known.get("versions", {})), page.facts("Seconds per stage", seconds)),
        page.folded("Every option that changes the result", page.preformatted(OmegaConf.to_yaml(run.options)))])
