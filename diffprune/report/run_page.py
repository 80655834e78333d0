"""The page of one run."""

from pathlib import Path

from omegaconf import OmegaConf

from diffprune.files import appearing
from diffprune.report import figures, page
from diffprune.report.finished import Finished
from diffprune.report.grid import strips
from diffprune.report.rows import dense, distance, final, states
from diffprune.report.table import transposed


def write_page(run: Finished) -> Path:
    """Writes the run's `report.html`, whole or not at all."""
    text = run_page(run)
    with appearing(run.run.report) as partial:
        partial.write_text(text, encoding="utf-8")
    return run.run.report


def run_page(run: Finished) -> str:
    table = transposed(states(run))
    return page.document(f"{run.metrics['pruner']} on {run.metrics['model']}" if run.is_pruned else
                         f"{run.final} {run.metrics['model']}", [
        page.paragraph(summary(run), "summary"),
        page.paragraph(run.run.name, "quiet"),
        page.section("Results", page.table(table.header, table.body), page.paragraph(reading(run), "quiet")),
        page.section("Samples", page.paragraph("Column by column, every model started from the same noise."),
                     page.pictures(strips(run))) if run.run.grid.exists() else "",
        page.section("Scoring, pruning, training", steps(run)),
        page.section("How it was made", made(run)),
    ])


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


def steps(run: Finished) -> str:
    """What each step did, as far as it was taken."""
    shown = [
        page.figure(figures.loss_per_timestep(run), "Scoring: the loss at every timestep on one fixed batch and noise. "
                    "Gradients of the shaded timesteps were summed."),
        page.figure(figures.widths(run), "Pruning: the width of every convolution and linear layer."),
        page.figure(figures.healing(run), "Training: the loss on random timesteps."),
        f"<div>{skipped(run)}{layers(run)}</div>" if run.is_pruned and run.pruning else "",
    ]
    return f'<div class="figures">{"".join(shown)}</div>' if any(shown) else ""


def skipped(run: Finished) -> str:
    entries = [(entry["layer"], entry["reason"]) for entry in run.pruning["skipped"]]
    return page.table(["left as it was", "because"], entries, "prose") if entries else ""


def layers(run: Finished) -> str:
    """Every layer's weight shape before and after, folded away."""
    body = [(name, *(" × ".join(map(str, shape[state])) for state in ("before", "after")))
            for name, shape in figures.in_order(run.pruning["layers"])]
    return page.folded(f"Weight shapes of all {len(body)} layers", page.table(["layer", "before", "after"], body))


def made(run: Finished) -> str:
    known = run.metrics
    seconds = {stage: f"{elapsed:.1f}" for stage, elapsed in known["seconds"].items()}
    commit = page.paragraph(f"Source at commit {known['commit']}.", "quiet") if known.get("commit") else ""
    return "\n".join([
        page.preformatted(known["command"]) if known.get("command") else "", commit,
        page.columns(page.facts("Protocol", {"features": known["features"], **known["protocol"]}),
                     page.facts("Versions", known.get("versions", {})), page.facts("Seconds per stage", seconds)),
        page.folded("Every option that changes the result", page.preformatted(OmegaConf.to_yaml(run.options)))])
