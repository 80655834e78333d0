"""Which channels went: how alike the criteria chose, and how wide every layer became."""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from diffprune.report.chart import DENSE, Chart, Matrix, Series
from diffprune.report.figures import block_labels, in_order
from diffprune.report.finished import Finished

Named = list[tuple[str, list[Finished]]]    # configurations, each with its runs
MOST = 16       # configurations in one figure; more are not told apart
Removed = dict[str, set[int]]               # {root layer of a group: its channels that went}


def overlap(named: Named) -> Matrix | None:
    """The Jaccard index of removed channels, mean over the seeds that both ran with; None below two configurations."""
    chosen = [(title, {run.options["seed"]: removed(run) for run in runs if any(removed(run).values())})
              for title, runs in named if runs[0].is_pruned]
    chosen = [(title, seeds) for title, seeds in chosen if seeds][:MOST]
    if len(chosen) < 2:
        return None
    values = [[between(one, other) for _, other in chosen] for _, one in chosen]
    shares = [share(run) for _, runs in named for run in runs if removed(run)]
    p = fmean(shares) if shares else 0.0
    apart = [(value, chosen[i][0], chosen[j][0]) for i, row in enumerate(values) for j, value in enumerate(row)
             if i < j and value is not None]
    alt = "; ".join(f"{one} and {other} {value:.2f}" for value, one, other in sorted(apart, reverse=True)[:12])
    return Matrix(
        "overlap", "Overlap of removed channels",
        "Channels that both removed, of those that either did (Jaccard index, all groups together, mean over common "
        f"seeds). Two random choices of this size would share {p / (2 - p):.2f}.",
        f"Overlap of removed channels: {alt}." if alt else "Overlap of removed channels: no seed in common.",
        "Jaccard index", [title for title, _ in chosen], values)


def removed(run: Finished) -> Removed:
    return {group["root"]: set(group["removed"]) for group in run.pruning.get("groups", []) if "removed" in group}


def share(run: Finished) -> float:
    """Of the channels that could go, the part that went."""
    groups = run.pruning["groups"]
    return sum(len(group.get("removed", ())) for group in groups) / max(1, sum(group["before"] for group in groups))


def between(one: dict[int, Removed], other: dict[int, Removed]) -> float | None:
    """Mean over common seeds of |A ∩ B| / |A ∪ B|; None without a common seed."""
    found = [jaccard(one[seed], other[seed]) for seed in one if seed in other]
    return fmean(found) if found else None


def jaccard(one: Removed, other: Removed) -> float:
    roots = one.keys() | other.keys()
    both = sum(len(one.get(root, set()) & other.get(root, set())) for root in roots)
    either = sum(len(one.get(root, set()) | other.get(root, set())) for root in roots)
    return both / either if either else 1.0


def widths(named: Named) -> Chart | None:
    """The width of every layer of each pruned configuration's first seed; None where nothing was pruned."""
    return width_chart([(title, runs[0].pruning["layers"]) for title, runs in named
                        if runs[0].is_pruned and runs[0].pruning.get("layers")])


def width_chart(pruned: list[tuple[str, dict[str, Any]]]) -> Chart | None:
    """Output channels of every convolution and linear layer; configurations of equal widths share a line.

    `pruned` are titles with {layer: its weight's shape `before` and `after`}.
    """
    known = [(title, layer_widths(layers)) for title, layers in pruned]
    if not known:
        return None
    names = list(known[0][1])
    known = [(title, layers) for title, layers in known if list(layers) == names]     # of one model
    before = [pair[0] for pair in known[0][1].values()]
    kinds: dict[tuple[int, ...], list[str]] = {}
    for title, layers in known:
        kinds.setdefault(tuple(pair[1] for pair in layers.values()), []).append(title)
    lines = [("dense", before, DENSE), *((listed(titles), after, i) for i, (after, titles) in
                                         enumerate(list(kinds.items())[:MOST]))]
    at = list(range(len(names)))
    return Chart(
        "widths", "Width of every layer", "Output channels of each convolution and linear layer, in the order in which an "
        "image passes them, of each configuration's first seed." + (f" The first {MOST} of {len(kinds)} different results."
                                                                    if len(kinds) > MOST else ""),
        f"Output channels of {len(names)} layers: " + "; ".join(f"{name} {sum(values)} in all" for name, values, _ in lines)
        + ".", "layers, in network order", "output channels",
        [Series(name, at, values, names, colour=colour, line=True, marks=False) for name, values, colour in lines],
        ticks=block_labels(names))


def layer_widths(layers: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """{layer: its output channels before and after}, in network order."""
    return {name: (shape["before"][0], shape["after"][0]) for name, shape in in_order(layers)
            if len(shape["before"]) > 1}


def listed(titles: Iterable[str]) -> str:
    first, *more = titles
    return f"{first} and {len(more)} more" if len(more) > 1 else " and ".join([first, *more])
