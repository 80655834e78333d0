"""Targets: the nominal ratio that keeps a given fraction of the dense model, found by bisection.

A width changes only where n = C - int(C (1 - r)) does, at r = k / C. All ratios between two such places give the same model,
so that there are finitely many models, and the one found is the nearest of all to the target.
"""

import copy
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from torch import nn

from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.dependency import Graph
from diffprune.pruning.scope import SCOPES
from diffprune.pruning.scores import Terms
from diffprune.pruning.surgery import cut, fixed_layers
from diffprune.runtime.errors import UserError

FractionKept = Callable[[float], float]     # nominal ratio -> fraction of the dense model's quantity that is kept


@dataclass(frozen=True)
class TargetSearch:
    """The nominal `ratio` for a target, as prune.json lists it: `target` and `reached` are fractions of the dense model's
    `quantity`, and `steps` each ratio that was tried with its fraction ("share")."""
    quantity: str
    target: float
    reached: float
    ratio: float
    steps: list[dict[str, float]]


def search(quantity: str, target: float, fraction_kept: FractionKept, ratios: Sequence[float]) -> TargetSearch:
    """Finds the one of the ascending `ratios` whose fraction is nearest to `target`, of two equally near the lower. The
    fraction must fall as the ratio grows. Raises UserError where even the largest ratio keeps more than the target."""
    tried: dict[float, float] = {}

    def kept(ratio: float) -> float:
        if ratio not in tried:
            tried[ratio] = fraction_kept(ratio)
        return tried[ratio]

    if kept(ratios[-1]) > target:
        raise UserError(f"pruner.target.{quantity}={target:g} cannot be reached: the largest ratio leaves "
                        f"{kept(ratios[-1]):.3g}, choose a target from there on")
    first_below = bisect_left(ratios, True, key=lambda ratio: kept(ratio) <= target)
    nearest = min(ratios[max(first_below - 1, 0)], ratios[first_below], key=lambda ratio: abs(kept(ratio) - target))
    return TargetSearch(quantity, target, tried[nearest], nearest,
                        [{"ratio": ratio, "share": fraction} for ratio, fraction in tried.items()])


def distinct_ratios(unet: nn.Module, allocation: Allocation) -> list[float]:
    """One ratio for each model that pruning `unet` can give, ascending from 0, each with as few decimals as possible. The
    ratio of `allocation` is ignored. In local scope the last one still keeps a channel of the narrowest group."""
    groups = [group for group in Graph(unet, fixed_layers(unet)).groups() if not allocation.obstacle(group)]
    # The widths that are rounded: of each group in local scope, else of all groups that are ranked together.
    end, widths = Fraction(1), Counter[Hashable]()
    for group in groups:
        widths[SCOPES[allocation.scope](group.root, group.topology)] += group.channels
        if allocation.scope == "local":
            end = min(end, 1 - Fraction(1, group.channels // (1 if allocation.selection.lazy else group.blocks)))
    places = sorted({Fraction(k, width) for width in widths.values() for k in range(width + 1)})
    return [0.0, *(short_decimal(low, high) for low, high in pairwise(places) if high <= end)]


def short_decimal(low: Fraction, high: Fraction) -> float:
    """The number between two others, excluding both, that has the fewest decimals."""
    for digits in range(1, 17):
        tick = Fraction(1, 10**digits)
        if (candidate := (math.floor(low / tick) + 1) * tick) < high:
            return float(candidate)
    return float((low + high) / 2)


def size_kept(quantity: str, unet: nn.Module, criterion: Criterion, allocation: Allocation, terms: Terms,
              seed: int = 0) -> FractionKept:
    """The fraction of `quantity` ("params" or "macs") that a ratio keeps, counted on copies of `unet` without storage."""
    meta_copy = copy.deepcopy(unet).to("meta")

    def fraction_kept(ratio: float) -> float:
        report = cut(copy.deepcopy(meta_copy), criterion, replace(allocation, ratio=ratio), terms, seed)
        sizes = {"params": (report.params, report.params_dense), "macs": (report.macs, report.macs_dense)}
        return sizes[quantity][0] / sizes[quantity][1]
    return fraction_kept
