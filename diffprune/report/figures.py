"""The figures of one run; each is None where the run has nothing to show."""

import math
import re
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from diffprune.report.finished import Finished, Scoring
from diffprune.report.svg import DENSE, MARK, PRUNED, inline

BLOCKS = {"conv_in": "in", "time_embedding": "time", "class_embedding": "class", "down_blocks": "down",
          "mid_block": "mid", "up_blocks": "up", "conv_norm_out": "out", "conv_out": "out"}     # as an image passes


def loss_per_timestep(run: Finished) -> str | None:
    """L_t over t, with the gate: the running maximum times T, where the loss fell below it, and what was kept."""
    scoring = run.scoring
    if scoring is None:
        return None
    total, kept, threshold = len(scoring.loss), scoring.kept, scoring.threshold

    def draw(axes: Axes) -> None:
        for number, (first, end) in enumerate(spans(scoring)):
            axes.axvspan(first, end, color=PRUNED, alpha=0.15, linewidth=0,
                         label=None if number else f"kept: {kept} of {total} timesteps")
        axes.plot(np.arange(total), scoring.loss, color=PRUNED, label="loss L(t)")
        if threshold > 0:
            axes.plot(np.arange(total), threshold * np.maximum.accumulate(scoring.loss), color=MARK, linestyle="--",
                      linewidth=1.0, label=f"{threshold:g} × largest loss so far")
        if kept < total and scoring.alpha is None:
            axes.axvline(kept, color=MARK, label=f"stop at t = {kept}")
        logarithmic(axes, scoring.loss)
        axes.set(xlabel="timestep t", ylabel="squared error, summed over pixels", xlim=(0, total))
        legend(axes)

    gate = f"Threshold {threshold:g} keeps the first {kept}" if scoring.alpha is None else f"Counted are {kept}"
    return inline("loss", f"Loss per timestep, from {scoring.loss[0]:.3g} at t = 0 to {scoring.loss[-1]:.3g}. "
                          f"{gate} of {total} timesteps.", draw)


def spans(scoring: Scoring) -> list[tuple[int, int]]:
    """First and end of each stretch of timesteps whose gradients were summed."""
    if scoring.alpha is None:
        return [(0, scoring.kept)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], scoring.alpha != 0, [0]])))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def widths(run: Finished) -> str | None:
    """Output channels of every convolution and linear layer, dense and pruned, as steps through the network."""
    layers = [(name, shape) for name, shape in in_order(run.pruning.get("layers", {})) if len(shape["before"]) > 1]
    if not layers or not run.is_pruned:
        return None
    before, after = ([shape[state][0] for _, shape in layers] for state in ("before", "after"))

    def draw(axes: Axes) -> None:
        edges = np.arange(len(layers) + 1) - 0.5
        axes.stairs(after, edges, fill=True, color=PRUNED, alpha=0.35, linewidth=0)
        axes.stairs(before, edges, color=DENSE, linewidth=1.2, label="dense")
        axes.stairs(after, edges, color=PRUNED, linewidth=1.2, label="pruned")
        axes.set_xticks(*zip(*block_labels([name for name, _ in layers]), strict=True), rotation=90)
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(ylabel="output channels", xlabel="layers, in network order", xlim=(edges[0], edges[-1]), ylim=0)
        legend(axes)

    return inline("widths", f"Output channels of {len(layers)} layers, in all {sum(before)} before pruning and "
                            f"{sum(after)} after. The list of layers below has every number.", draw)


def healing(run: Finished) -> str | None:
    """The training loss over the steps, and its running mean."""
    if len(run.progress) < 2:
        return None
    steps, loss = (np.array([line[key] for line in run.progress]) for key in ("step", "loss"))
    window = max(1, len(loss) // 20)
    mean = np.convolve(loss, np.ones(window) / window, "valid")

    def draw(axes: Axes) -> None:
        axes.plot(steps, loss, color=PRUNED, alpha=0.35 if window > 1 else 1.0, linewidth=1.0, label="logged steps")
        if window > 1:
            axes.plot(steps[window - 1:], mean, color=PRUNED, label=f"mean of the last {window}")
        logarithmic(axes, loss)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="training step", ylabel="squared error, summed over pixels")
        legend(axes)

    return inline("healing", f"Training loss over {int(steps[-1])} steps, from {loss[0]:.3g} to {loss[-1]:.3g}; "
                             f"mean of the last {window} logged steps {mean[-1]:.3g}.", draw)


def logarithmic(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic y axis with plain numbers, as many as its span needs; linear where a value is not positive."""
    if values.min() <= 0:
        return
    span = math.log10(values.max() / values.min())
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if span > 2 else (1, 2, 5) if span > 0.7 else range(1, 10)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(axes: Axes) -> None:
    """Above the axes, where no curve can run through it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)


def in_order(layers: dict[str, Any]) -> list[tuple[str, Any]]:
    """Layers as an image passes them; a UNet registers its middle block last."""
    place = {block: i for i, block in enumerate(BLOCKS)}
    return sorted(layers.items(), key=lambda item: place.get(item[0].split(".")[0], len(place)))


def block_labels(names: list[str]) -> list[tuple[float, str]]:
    """(index of its middle layer, short name such as `down 1`) of every block that has room for its name."""
    found: list[tuple[float, str]] = []
    for name, members in groupby(range(len(names)), key=lambda i: block(names[i])):
        first, *_, last = [*members] * 2
        middle = (first + last) / 2
        if not found or middle - found[-1][0] > len(names) / 25:
            found.append((middle, name))
    return found


def block(name: str) -> str:
    first, *rest = name.split(".")
    number = rest[0] if rest and re.fullmatch(r"\d+", rest[0]) else ""
    return f"{BLOCKS.get(first, first)} {number}".strip()
