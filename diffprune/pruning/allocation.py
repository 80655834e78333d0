"""How much goes from a dependency group, and in what portions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffprune.pruning.dependency import Group
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.scope import SCOPES, Ranked, portions_to_remove
from diffprune.pruning.selection import (
    Fits,
    PaperSelection,
    Selection,
    anything,
    first_portions,
    head_portions,
    whole_heads,
)

HEADS = ("equal", "whole")


@dataclass(frozen=True)
class Past:
    """Earlier rounds: the nominal `ratio` they came to, and how many `channels` and `heads` each root had before them."""
    ratio: float
    channels: Mapping[str, int]
    heads: Mapping[str, int]

    @classmethod
    def of(cls, report: PruneReport) -> "Past":
        return cls(report.ratio, {entry["root"]: entry["before"] for entry in report.groups},
                   {entry["root"]: entry.get("heads", {"before": 1})["before"] for entry in report.groups})


@dataclass(frozen=True)
class Rule:
    """A nominal `ratio` in [0, 1), the `selection` that it is applied by, and two limits to that.

    `heads`: from attention with several heads go `equal` parts of each, or `whole` ones. (With one head both mean its
    channels.) `round_to`: kept widths are multiples of it, rounded up, and a group's blocks stay equally long. A gated
    hidden unit goes when its own channel or its gate's is chosen: about 1 - (1 - r)² of them do (PAPER: LDM-4's size).

    `scope`: the ratio is that of each group, or of all that are ranked together (`scope.SCOPES`), where at least the share
    `floor` of a group stays and a gated hidden unit is ranked with its gate.

    `past`: what earlier rounds did; groups then end as wide as `ratio` leaves them in one go. In local scope alone. Raises
    ValueError for a value outside its range.
    """
    ratio: float
    selection: Selection = field(default_factory=PaperSelection)
    heads: str = "equal"
    round_to: int | None = None
    scope: str = "local"
    floor: float = 0.1
    past: Past | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio {self.ratio} is outside [0, 1)")
        if self.heads not in HEADS:
            raise ValueError(f"heads {self.heads!r} is not known: choose one of {', '.join(HEADS)}")
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"round_to {self.round_to} is not a width: give a whole number from 1 on")
        if self.scope not in SCOPES:
            raise ValueError(f"scope {self.scope!r} is not known: choose one of {', '.join(SCOPES)}")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor {self.floor} is outside [0, 1)")
        if self.past is not None and self.scope != "local":
            raise ValueError(f"scope {self.scope} has no rounds: choose local")

    @property
    def eager(self) -> bool:
        """Whether all groups are scored on the dense model, not each when its turn comes."""
        return self.scope != "local" or not self.selection.lazy

    def allot(self, groups: Sequence[Group], scores: Mapping[str, Tensor | None]) -> dict[str, int]:
        """{root: how many portions go}, ranked over all `groups` with their `scores` {root: [C]}; none in local scope."""
        if self.scope == "local":
            return {}
        ranked = []
        for group in groups:
            if not self.obstacle(group):
                portions = self.portions(group, scores[group.root])
                worth = torch.stack([scores[group.root][portion].double().mean() for portion in portions])
                ranked.append(Ranked(group.root, group.channels, len(portions[0]), worth, group.topology))
        return portions_to_remove(ranked, SCOPES[self.scope](), self.ratio, self.floor)

    def choose(self, group: Group, scores: Tensor | None, count: int | None = None) -> tuple[list[int], str]:
        """The root's channels to remove, ascending, for `scores` [C]; where there are none, the reason.

        `count` portions beyond the local scope. A group with an obstacle needs no scores.
        """
        if obstacle := self.obstacle(group):
            return [], obstacle
        wanted = self.pick(group, scores, anything, count)
        if not wanted and count is not None:
            return [], f"in {self.scope} scope ratio {self.ratio:g} takes none of its channels"
        if not wanted:
            portion = "one" if self.by_head(group) else "one channel in each"
            return [], f"ratio {self.ratio:g} is less than {portion} of {group.described_blocks}"
        if chosen := self.pick(group, scores, self.fits(group), count):
            return chosen, ""
        least = group.units - len(group.lost_units(wanted))
        return [], f"no width from {least} to below {group.units} is a multiple of {self.round_to}"

    def pick(self, group: Group, scores: Tensor, fits: Fits, count: int | None) -> list[int]:
        if count is not None:
            return first_portions(self.portions(group, scores), count, fits)
        return self.take(scores, self.ratio_of(group), group, group.heads, fits)

    def take(self, scores: Tensor, ratio: float, group: Group, heads: int, fits: Fits = anything) -> list[int]:
        """The local choice among `scores` [C] in blocks like the group's, or in `heads` whole ones."""
        if self.by_head(group):
            return whole_heads(scores, ratio, heads, fits)
        return self.selection.choose(scores, ratio, group.blocks, fits)

    def ratio_of(self, group: Group) -> float:
        """The ratio that brings this group, as narrow as it is by now, to the width of `ratio` in one go.

        For a gated unit, of which (1 - r)² stay whichever they are, that is what is left between the rounds' ratios.
        """
        if self.past is None:
            return self.ratio
        if group.units < group.channels:
            return 1 - (1 - self.ratio) / (1 - self.past.ratio)
        dense = self.past.channels[group.root]
        count = len(self.take(torch.zeros(dense), self.ratio, group, self.past.heads[group.root])) - (dense - group.channels)
        return max(count - 0.5, 0) / group.channels     # C - int(C (1 - r)) is the count at this r, far from any rounding

    def portions(self, group: Group, scores: Tensor) -> list[list[int]]:
        """The portions that go together beyond the local scope, least important first, for `scores` [C]."""
        if group.units < group.channels:
            halves = scores.view(-1, group.units)
            return [list(range(unit, group.channels, group.units)) for unit in halves.mean(0).argsort(stable=True).tolist()]
        if self.by_head(group):
            return head_portions(scores, group.heads)
        return self.selection.portions(scores, group.blocks)

    def obstacle(self, group: Group) -> str | None:
        """Why no channel of this group can go under this rule."""
        if self.scope != "local" and group.units < group.channels and group.blocks > 1:
            return f"a gated feed-forward whose channels are divided among {group.described_blocks} needs the local scope"
        return group.obstacle

    def by_head(self, group: Group) -> bool:
        heads = group.heads if self.past is None else self.past.heads[group.root]
        return self.heads == "whole" and heads > 1

    def fits(self, group: Group) -> Fits:
        """Whether a choice leaves a multiple of `round_to`, and at least one."""
        if self.round_to is None:
            return anything

        def multiple(chosen: list[int]) -> bool:
            kept = group.units - len(group.lost_units(chosen))
            return kept > 0 and kept % self.round_to == 0
        return multiple
