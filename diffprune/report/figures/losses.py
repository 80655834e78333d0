"""Losses: at every timestep, with the last timestep that each threshold keeps, and over the steps of training."""

import math
from collections.abc import Set
from dataclasses import replace
from itertools import groupby

import numpy as np

from diffprune.report.figures.chart import DENSE, Absent, Chart, Series
from diffprune.report.finished import Finished
from diffprune.report.tables.protocol import seeds_of
from diffprune.runs.score_file import TimestepLosses

POINTS = 250    # of a curve over the timesteps
WINDOWS = 20    # the running mean of a training loss is over one of so many equal windows of the logged steps


def loss_per_timestep(runs: list[Finished]) -> list[Chart | Absent]:
    """L_t of each model that was scored, on the first seed's batch and noise, with where each threshold stops."""
    scored = sorted((run.model, run.options["seed"], -len(run.scoring.stops), i)
                    for i, run in enumerate(runs) if run.scoring is not None)
    used = {run.options["pruner"]["threshold"] for run in runs if run.options["pruner"].get("threshold")}
    charts = [loss_chart(runs[next(members)[-1]], used) for _, members in groupby(scored, key=lambda one: one[0])]
    return [*charts] or [Absent("Loss per timestep", "scores.safetensors is not kept with these runs" if any(
        run.metrics.cost.get("score") for run in runs) else "no criterion here made a scoring pass over the timesteps")]


def scoring_pass(run: Finished) -> Chart | Absent:
    """The loss of one run's scoring pass, the timesteps that counted shaded, and the threshold that ended it."""
    if run.scoring is None:
        return loss_per_timestep([run])[0]
    scoring, total = run.scoring, len(run.scoring.loss)
    chart = loss_chart(run, {scoring.threshold})
    highest, shown = (scoring.threshold * np.maximum.accumulate(scoring.loss)).tolist(), timesteps(total)
    threshold = Series(f"{scoring.threshold:g} × largest loss so far", shown, [highest[t] for t in shown], colour=1,
                       line=True, marks=False)
    return replace(
        chart, name="loss", series=[*chart.series, *([threshold] if scoring.threshold > 0 else [])], spans=spans(scoring),
        caption=f"{chart.caption} Shaded is what counted here: {scoring.kept} of {total} timesteps.")


def spans(scoring: TimestepLosses) -> list[tuple[int, int]]:
    """First and end of each stretch of timesteps whose gradients were summed."""
    if scoring.alpha is None:
        return [(0, scoring.kept)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], scoring.alpha != 0, [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def timesteps(total: int) -> list[int]:
    """Those that a curve is drawn through: evenly spaced, at most POINTS of them and the last one."""
    return sorted({*range(0, total, math.ceil(total / POINTS)), total - 1})


def loss_chart(run: Finished, used: Set[float]) -> Chart:
    """The loss of a run with a scoring pass. Stops at which every timestep is kept are named in the caption alone; those of
    the thresholds that are `used` stand out."""
    scoring, model = run.scoring, run.model
    assert scoring is not None
    loss, total = scoring.loss, len(scoring.loss)
    thresholds = {float(text): stop for text, stop in scoring.stops.items() if float(text) > 0}
    inside = {T: stop for T, stop in sorted(thresholds.items(), reverse=True) if stop < total}
    whole = [f"{T:g}" for T, stop in thresholds.items() if stop >= total]
    return Chart(
        "loss-" + model.replace(" on ", "-"), f"Loss per timestep: {model}",
        "Squared error on one calibration batch and noise. A threshold T stops at the first timestep whose loss is below T "
        "times the largest so far; the gradients before it are summed."
        + (f" T = {', '.join(whole)} keeps all {total}." if whole else ""),
        f"Loss per timestep from {loss[0]:.3g} at t = 0 to {loss[-1]:.3g} at t = {total - 1}. "
        + "; ".join(f"T = {T:g} stops at {stop}" for T, stop in inside.items()),
        "timestep t", "squared error, summed over pixels",
        [Series("loss L(t)", timesteps(total), [float(loss[t]) for t in timesteps(total)], line=True, marks=False)],
        [(stop, f"T = {T:g}") for T, stop in inside.items()], frozenset(f"T = {T:g}" for T in used),
        log_y=bool((loss > 0).all()),
        made=f"n = {run.options['pruner'].get('calibration_batch', '?')} images, {seeds_of([run])}")


def training_loss(run: Finished) -> Chart | Absent:
    """The training loss over the steps, and its running mean."""
    if len(run.progress) < 2:
        return Absent("Loss of training", f"it takes two logged steps, of {run.steps} there are {len(run.progress)}")
    steps, loss = ([float(line[key]) for line in run.progress] for key in ("step", "loss"))
    window = max(1, len(loss) // WINDOWS)
    mean = np.convolve(loss, np.ones(window) / window, "valid").tolist()
    smooth = Series(f"mean of the last {window}", steps[window - 1:], mean, colour=1, line=True, marks=False)
    return Chart(
        "healing", "Loss of training", "Squared error on random timesteps.",
        f"Training loss over {steps[-1]:g} steps, from {loss[0]:.3g} to {loss[-1]:.3g}; mean of the last {window} logged "
        f"steps {mean[-1]:.3g}.", "training step", "squared error, summed over pixels",
        [Series("logged steps", steps, loss, line=True, marks=False), *([smooth] if window > 1 else [])],
        log_y=min(loss) > 0, made=seeds_of([run]))


def held_out_loss(run: Finished) -> Chart | Absent:
    """The loss on held-out images in each range of timesteps, of the dense, the pruned and the final model."""
    losses, title = run.metrics.held_out_losses, "Loss on held-out images"
    if not losses:
        return Absent(title, "dataset.held_out=0 leaves none")
    names = {"dense": "dense", "before_healing": run.before_healing, "final": run.final}
    shown = {name: losses[state] for state, name in names.items() if state in losses}
    count = len(losses["final"])
    places = [(i + 0.5) * 100 / count for i in range(count)]
    return Chart(
        "held-out-loss", title,
        f"Squared error in {count} equal ranges of timesteps, the same images and noise for every model.",
        f"{title} from the first range of timesteps to the last. " + "; ".join(
            f"{name}: {values[0]:.3g} to {values[-1]:.3g}" for name, values in shown.items()),
        "timestep t [% of all]", "squared error, summed over pixels",
        [Series(name, places, values, colour=DENSE if name == "dense" else i, line=True)
         for i, (name, values) in enumerate(shown.items(), -1)], log_y=min(map(min, shown.values())) > 0, made=held_out(run))


def held_out_curve(run: Finished) -> Chart | Absent:
    """The loss on held-out images over the steps of training, beside the dense model's."""
    curve, title = {int(step): loss for step, loss in run.held_out_curve.items()}, "Loss on held-out images during training"
    if len(curve) < 2:
        return Absent(title, "it was measured at fewer than two steps (dataset.held_out, schedule.measure_every)")
    steps, dense = sorted(curve), run.metrics.scores["dense"].get("held_out_loss")
    series = [Series("averaged weights", steps, [curve[step] for step in steps], line=True)]
    if dense is not None:
        series.append(Series("dense", [steps[0], steps[-1]], [dense, dense], colour=DENSE, line=True, marks=False))
    return Chart("held-out-curve", title, "Mean over all timesteps; the same images and noise every time.",
                 f"{title}, from {curve[steps[0]]:.3g} at step {steps[0]} to {curve[steps[-1]]:.3g} at step {steps[-1]}."
                 + ("" if dense is None else f" The dense model's is {dense:.3g}."), "training step",
                 "squared error, summed over pixels", series, log_y=min(curve.values()) > 0,
                 made=held_out(run))


def held_out(run: Finished) -> str:
    """How many images were held out, and the seed."""
    return f"n = {run.metrics.protocol.get('held_out', '?')} images, {seeds_of([run])}"
