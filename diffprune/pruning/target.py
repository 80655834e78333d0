"""The nominal ratio that leaves a given share of the dense model, found by bisection over the ratios that differ.

A width changes only where n = C - int(C (1 - r)) does, at r = k / C. Between two such places every ratio gives the same
model, so that these are all the models there are, and the one found is the nearest of all to what was asked.
"""

import copy
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from torch import nn

from diffprune.models.cost import example_inputs
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.dependency import Graph
from diffprune.pruning.importance import Terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import Selection
from diffprune.pruning.surgery import cut, keeping_all
from diffprune.runtime.errors import UserError

Share = Callable[[float], float]    # ratio -> what is left, as a share of dense


@dataclass(frozen=True)
class Found:
    """`target` and `reached`: shares of the dense model's `quantity`; `steps`: each ratio that was tried, with its share."""
    quantity: str
    target: float
    reached: float
    ratio: float
    steps: list[dict[str, float]]


def find(quantity: str, target: float, share: Share, ratios: Sequence[float]) -> Found:
    """The one of the ascending `ratios` whose share is nearest to `target`; of two equally near the lower.

    `share` is taken to fall as the ratio grows. Raises UserError where even the largest ratio leaves more.
    """
    tried: dict[float, float] = {}

    def left(ratio: float) -> float:
        if ratio not in tried:
            tried[ratio] = share(ratio)
        return tried[ratio]

    if left(ratios[-1]) > target:
        raise UserError(f"pruner.target.{quantity}={target:g} cannot be reached: the largest ratio leaves "
                        f"{left(ratios[-1]):.3g}, choose a target from there on")
    first_below = bisect_left(ratios, True, key=lambda ratio: left(ratio) <= target)
    near = [ratios[max(first_below - 1, 0)], ratios[first_below]]
    best = min(near, key=lambda ratio: abs(left(ratio) - target))
    return Found(quantity, target, tried[best], best, [{"ratio": ratio, "share": left} for ratio, left in tried.items()])


def distinct_ratios(unet: nn.Module, selection: Selection, scope: str = "local") -> list[float]:
    """One ratio for each model that pruning `unet` can give, ascending from 0, as short as a decimal can be.

    In local scope they end where the narrowest group would lose all, and so would be left as it is.
    """
    graph = Graph(unet, example_inputs(unet), [unet.get_submodule(name) for name in keeping_all(unet)])
    groups = [group for group in graph.groups() if not group.obstacle]
    end, together = Fraction(1), Counter()
    for group in groups:        # in local scope every group is rounded alone, else those that are ranked together
        together[{"local": group.root, "global": None, "isomorphic": group.topology}[scope]] += group.channels
        if scope == "local":
            end = min(end, 1 - Fraction(1, group.channels // (1 if selection.lazy else group.blocks)))
    places = sorted({Fraction(k, width) for width in together.values() for k in range(width + 1)})
    return [0.0, *(short_decimal(low, high) for low, high in pairwise(places) if high <= end)]


def short_decimal(low: Fraction, high: Fraction) -> float:
    """A number between two others, excluding both, with the fewest decimals."""
    for digits in range(1, 17):
        tick = Fraction(1, 10**digits)
        if (candidate := (math.floor(low / tick) + 1) * tick) < high:
            return float(candidate)
    return float((low + high) / 2)


def size_share(quantity: str, unet: nn.Module, criterion: Criterion, terms: Terms, options: dict[str, Any]) -> Share:
    """What a ratio leaves of `params` or `macs`, counted on tensors without storage; `options` are those of `cut`."""
    hollow = copy.deepcopy(unet).to("meta")

    def share(ratio: float) -> float:
        report: PruneReport = cut(copy.deepcopy(hollow), criterion, ratio, terms, **options)
        return getattr(report, quantity) / getattr(report, f"{quantity}_dense")
    return share
