"""Over what channels are ranked beyond the paper's local rule: all groups at once, or those of one topology.

Every group is scored on the dense model. What must go together is one *portion* (a channel, one of each norm group, a
head, a gated hidden unit), worth the mean of its channels' scores, and whole portions go, the least worth first.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from diffprune.pruning.selection import removal_count


@dataclass(frozen=True)
class Ranked:
    """A group's `worth` [P] of its portions, ascending, each of `size` of its `channels`; `topology` tells its kind."""
    root: str
    channels: int
    size: int
    worth: Tensor
    topology: Hashable

    def spare(self, floor: float) -> int:
        """How many portions may go, so that at least the share `floor` of the channels stays, and never all."""
        return min(int((self.channels - math.ceil(floor * self.channels)) // self.size), len(self.worth) - 1)


class Scope(Protocol):
    """`relative`: a group's worths count relative to their mean, as Torch-Pruning's global ranking has it."""
    relative: ClassVar[bool]

    def together(self, group: Ranked) -> Hashable:
        """Groups for which this is equal are ranked together."""


class Global:
    """All groups at once. Relative, since unlike layers' scores have unlike scales: what is expendable in its own group."""
    relative: ClassVar[bool] = True

    def together(self, group: Ranked) -> Hashable:
        return None


class Isomorphic:
    """Groups whose member layers are of the same kinds (Fang et al. 2024): like scores compare as they are."""
    relative: ClassVar[bool] = False

    def together(self, group: Ranked) -> Hashable:
        return group.topology


def portions_to_remove(groups: Sequence[Ranked], scope: Scope, ratio: float, floor: float) -> dict[str, int]:
    """{root: how many of its portions go}: of the N channels ranked together N - int(N (1 - ratio)), in whole portions.

    A larger ratio takes the same portions and more. Where floors bind fewer go than were asked for.
    """
    found: dict[str, int] = {}
    for kind in dict.fromkeys(map(scope.together, groups)):
        found |= counts([group for group in groups if scope.together(group) == kind], scope.relative, ratio, floor)
    return found


def counts(groups: Sequence[Ranked], relative: bool, ratio: float, floor: float) -> dict[str, int]:
    """The same for groups that are ranked together."""
    left, found = removal_count(sum(group.channels for group in groups), ratio), {group.root: 0 for group in groups}
    for _, number in sorted((worth, number) for number, group in enumerate(groups)
                            for worth in spare_worths(group, relative, floor)):
        left -= groups[number].size
        if left < 0:        # not the next smaller portion instead: what goes at one ratio must go at every larger one
            break
        found[groups[number].root] += 1
    return found


def spare_worths(group: Ranked, relative: bool, floor: float) -> list[float]:
    mean = float(group.worth.mean()) if relative else 1.0
    return (group.worth[:group.spare(floor)] / (mean or 1.0)).tolist()


SCOPES: dict[str, Callable[[], Scope] | None] = {"local": None, "global": Global, "isomorphic": Isomorphic}
