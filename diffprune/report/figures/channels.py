"""Which channels were removed: how alike the criteria chose, and how wide every layer became."""

from itertools import groupby
from statistics import fmean
from typing import Any

from diffprune.report.figures.chart import DENSE, Absent, Chart, Matrix, Series, counted
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named

MOST = 16       # configurations in one figure; more are not told apart
# A block's short name, in the order in which an image passes the blocks.
BLOCKS = {"conv_in": "in", "time_embedding": "time", "class_embedding": "class", "down_blocks": "down",
          "mid_block": "mid", "up_blocks": "up", "conv_norm_out": "out", "conv_out": "out"}
Channels = set[tuple[str, int]]     # (root layer of a group, index of a channel)


def overlap(named: Named) -> Matrix | Absent:
    """The Jaccard index of the channels that two configurations removed, mean over the seeds that both ran with."""
    pruned = [(title, {run.options["seed"]: removed(run) for run in runs}) for title, runs in named if runs[0].is_pruned]
    eligible = [(title, seeds) for title, seeds in pruned if any(seeds.values())]
    chosen = eligible[:MOST]
    if len(chosen) < 2:
        return Absent("Overlap of removed channels", "it takes two configurations of which prune.json is kept with the run, "
                      f"there {'is one' if chosen else 'is none'}")
    values = [[mean_overlap(one, other) for _, other in chosen] for _, one in chosen]
    p = fmean(len(removed(run)) / sum(group["before"] for group in run.pruning["groups"])
              for _, runs in named for run in runs if removed(run))
    pairs = [(value, chosen[i][0], chosen[j][0]) for i, row in enumerate(values) for j, value in enumerate(row)
             if i < j and value is not None]
    alt = "; ".join(f"{one} and {other} {value:.2f}" for value, one, other in sorted(pairs, reverse=True)[:12])
    return Matrix(
        "overlap", "Overlap of removed channels",
        "Channels that both removed, of those that either did (Jaccard index, all groups together, mean over common "
        f"seeds). Two random choices of this size would share {p / (2 - p):.2f}."
        + (f" The first {MOST} of {len(eligible)} configurations." if len(eligible) > MOST else ""),
        f"Overlap of removed channels: {alt or 'no seed in common'}.", "Jaccard index",
        [title for title, _ in chosen], values)


def removed(run: Finished) -> Channels:
    """The channels that pruning removed, as far as the run's report on it lists them."""
    return {(group["root"], channel) for group in run.pruning.get("groups", []) for channel in group.get("removed", ())}


def mean_overlap(one: dict[int, Channels], other: dict[int, Channels]) -> float | None:
    """Mean over the common seeds {seed: channels} of |A ∩ B| / |A ∪ B|; None without a common seed."""
    pairs = [(one[seed], other[seed]) for seed in one if seed in other]
    return fmean(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) if pairs else None


def widths(named: Named, whose: str = ", of each configuration's first seed") -> Chart | Absent:
    """The width of every layer of each pruned configuration's first seed."""
    pruned = [(title, runs[0]) for title, runs in named if runs[0].is_pruned]
    known = [(title, run.pruning["layers"]) for title, run in pruned if run.pruning.get("layers")]
    return width_chart(known, whose) if known else Absent(
        "Width of every layer", "prune.json is not kept with these runs" if pruned else "nothing was pruned")


def width_chart(pruned: list[tuple[str, dict[str, Any]]], whose: str = "") -> Chart:
    """Output channels of every convolution and linear layer; configurations of equal widths share a line. `pruned` are at
    least one title with {layer: its weight's shape `before` and `after`}; models with other layers than the first one's are
    left out."""
    everyone = [(title, {name: (shape["before"][0], shape["after"][0]) for name, shape in in_order(layers)
                         if len(shape["before"]) > 1}) for title, layers in pruned]
    names = list(everyone[0][1])
    comparable = [(title, layers) for title, layers in everyone if list(layers) == names]
    kinds: dict[tuple[int, ...], list[str]] = {}
    for title, layers in comparable:
        kinds.setdefault(tuple(after for _, after in layers.values()), []).append(title)
    dense_widths = tuple(dense for dense, _ in everyone[0][1].values())
    lines = [("dense", dense_widths, DENSE), *((listed(*titles), after, i) for i, (after, titles) in
                                         enumerate(list(kinds.items())[:MOST]))]
    cuts = f" The first {MOST} of {len(kinds)} different results." if len(kinds) > MOST else ""
    if len(comparable) < len(everyone):
        cuts += f" Of one model: {counted(len(everyone) - len(comparable), 'configuration')} of other layers left out."
    return Chart(
        "widths", "Width of every layer", "Output channels of each convolution and linear layer, in the order in which an "
        f"image passes them{whose}.{cuts}",
        f"Output channels of {len(names)} layers: " + "; ".join(f"{name} {sum(values)} in all" for name, values, _ in lines)
        + ".", "layers, in network order", "output channels",
        [Series(name, range(len(names)), values, names, colour=colour, line=True, marks=False)
         for name, values, colour in lines], ticks=block_labels(names))


def listed(first: str, *more: str) -> str:
    return f"{first} and {len(more)} more" if len(more) > 1 else " and ".join([first, *more])


def in_order(layers: dict[str, Any]) -> list[tuple[str, Any]]:
    """Layers as an image passes them; a UNet registers its middle block last."""
    place = {block: i for i, block in enumerate(BLOCKS)}
    return sorted(layers.items(), key=lambda item: place.get(item[0].split(".")[0], len(place)))


def block_labels(names: list[str]) -> list[tuple[float, str]]:
    """(index of its middle layer, short name such as `down 1`) of every block that has room for its name."""
    labels: list[tuple[float, str]] = []
    for name, members in groupby(range(len(names)), key=lambda i: block(names[i])):
        first, *_, last = [*members] * 2
        middle = (first + last) / 2
        if not labels or middle - labels[-1][0] > len(names) / 25:
            labels.append((middle, name))
    return labels


def block(name: str) -> str:
    """The short name of a layer's block: `down 1`."""
    first, number, *_ = [*name.split("."), ""]
    return f"{BLOCKS.get(first, first)} {number if number.isdecimal() else ''}".strip()
