"""Which channels were removed: how alike the criteria chose, and how wide every layer became."""

from statistics import fmean
from typing import Any

from diffprune.report.figures.chart import DENSE, Absent, Chart, Matrix, Series, counted
from diffprune.report.figures.layers import block_labels, in_order
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named

MOST = 16       # configurations in one figure; more are not told apart
Removed = dict[str, set[int]]               # {root layer of a group: its channels that went}


def overlap(named: Named) -> Matrix | Absent:
    """The Jaccard index of removed channels, mean over the seeds that both ran with."""
    eligible = [(title, seeds) for title, runs in named if runs[0].is_pruned and
             (seeds := {run.options["seed"]: removed(run) for run in runs if any(removed(run).values())})]
    chosen = eligible[:MOST]
    if len(chosen) < 2:
        return Absent("Overlap of removed channels", "it takes two configurations whose removed channels are known, there "
                      f"{'is one' if chosen else 'is none'}")
    values = [[mean_overlap(one, other) for _, other in chosen] for _, one in chosen]
    p = fmean(fraction_removed(run) for _, runs in named for run in runs if removed(run))
    apart = [(value, chosen[i][0], chosen[j][0]) for i, row in enumerate(values) for j, value in enumerate(row)
             if i < j and value is not None]
    alt = "; ".join(f"{one} and {other} {value:.2f}" for value, one, other in sorted(apart, reverse=True)[:12])
    return Matrix(
        "overlap", "Overlap of removed channels",
        "Channels that both removed, of those that either did (Jaccard index, all groups together, mean over common "
        f"seeds). Two random choices of this size would share {p / (2 - p):.2f}."
        + (f" The first {MOST} of {len(eligible)} configurations." if len(eligible) > MOST else ""),
        f"Overlap of removed channels: {alt or 'no seed in common'}.", "Jaccard index",
        [title for title, _ in chosen], values)


def removed(run: Finished) -> Removed:
    return {group["root"]: set(group["removed"]) for group in run.pruning.get("groups", []) if "removed" in group}


def fraction_removed(run: Finished) -> float:
    """The fraction of the removable channels that was removed."""
    groups = run.pruning["groups"]
    return sum(len(group.get("removed", ())) for group in groups) / max(1, sum(group["before"] for group in groups))


def mean_overlap(one: dict[int, Removed], other: dict[int, Removed]) -> float | None:
    """Mean over common seeds of |A ∩ B| / |A ∪ B|; None without a common seed."""
    overlaps = [jaccard(one[seed], other[seed]) for seed in one if seed in other]
    return fmean(overlaps) if overlaps else None


def jaccard(one: Removed, other: Removed) -> float:
    roots = one.keys() | other.keys()
    both = sum(len(one.get(root, set()) & other.get(root, set())) for root in roots)
    either = sum(len(one.get(root, set()) | other.get(root, set())) for root in roots)
    return both / either if either else 1.0


def widths(named: Named) -> Chart | Absent:
    """The width of every layer of each pruned configuration's first seed."""
    return width_chart([(title, runs[0].pruning["layers"]) for title, runs in named
                        if runs[0].is_pruned and runs[0].pruning.get("layers")], ", of each configuration's first seed")


def width_chart(pruned: list[tuple[str, dict[str, Any]]], whose: str = "") -> Chart | Absent:
    """Output channels of every convolution and linear layer; configurations of equal widths share a line.

    `pruned` are titles with {layer: its weight's shape `before` and `after`}; models with other layers than the first
    one's are left out.
    """
    if not pruned:
        return Absent("Width of every layer", "nothing was pruned")
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
