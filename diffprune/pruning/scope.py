"""Scopes: over which channels the ranking goes beyond the paper's local rule, all groups at once or those of one topology,
by worth or by worth per cost.

Every group is scored on the dense model. What must be removed together is a *portion*: a channel, one from each norm group,
a head, or a gated hidden unit. A portion is worth the mean score of its channels. Whole portions are removed, those of the
least worth first.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffprune.pruning.selection import removal_count

# {scope: what groups that are ranked together have in common, from a group's root and topology}: each group alone; all
# groups; groups whose member layers are of the same kinds (Isomorphic Pruning, Fang et al. 2024); all groups once more.
SCOPES: dict[str, Callable[[str, Hashable], Hashable]] = {
    "local": lambda root, topology: root, "global": lambda *_: None, "isomorphic": lambda root, topology: topology,
    "cost_aware": lambda *_: None}


@dataclass(frozen=True)
class Ranked:
    """A group's portions: their `worth` [P], ascending, and the `size` of each; `topology` is the group's kind, `cost` what
    removing a portion saves, divided by its size."""
    root: str
    channels: int
    size: int
    worth: Tensor
    topology: Hashable
    cost: float = 0.0

    def removable(self, floor: float, scope: str) -> list[float]:
        """The worth, on the scale of `scope`, of all portions that may be removed if the fraction `floor` of the channels,
        and one portion, is kept."""
        unit = UNITS[scope](self) if scope in UNITS else 1.0
        count = min(int((self.channels - math.ceil(floor * self.channels)) // self.size), len(self.worth) - 1)
        return (self.worth[:count] / (unit or 1.0)).tolist()


# {scope that compares groups of unlike kinds: what a group's worth is divided by}.
UNITS: dict[str, Callable[[Ranked], float]] = {
    "global": lambda group: float(group.worth.mean()), "cost_aware": lambda group: float(group.worth.mean()) * group.cost}


def portions_to_remove(groups: Sequence[Ranked], scope: str, ratio: float, floor: float) -> dict[str, int]:
    """{root: how many of its portions are removed}.

    Of the N channels that are ranked together N - int(N (1 - ratio)) are removed, in whole portions; fewer where floors
    bind. A larger ratio removes the same portions and more. In global scope worth is relative to its mean over the group, as
    in Torch-Pruning, because scores of unlike layers have unlike scales. In cost-aware scope portion p of group g ranks by

        (s_p / mean of s over g) / (cost that the removal of p saves / channels in p),

    the worth of global scope per cost: the greedy rule of the knapsack problem, to keep the most worth at a given cost. A
    channel of its group's mean worth counts as 1 in every group, so that this scope differs from the global one by the cost
    alone. The cost is that in the dense network, whatever else is removed.
    """
    counts = {group.root: 0 for group in groups}
    keys = {group.root: SCOPES[scope](group.root, group.topology) for group in groups}
    for key in dict.fromkeys(keys.values()):
        together = [group for group in groups if keys[group.root] == key]
        left = removal_count(sum(group.channels for group in together), ratio)
        for _, number in sorted((worth, number) for number, group in enumerate(together)
                                for worth in group.removable(floor, scope)):
            left -= together[number].size
            if left < 0:        # a smaller portion may still fit, but would not be removed at every larger ratio
                break
            counts[together[number].root] += 1
    return counts
