"""How many channels each dependency group loses, and in what portions."""

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
    any_width,
    first_portions,
    head_portions,
    whole_heads,
)

HEADS = ("equal", "whole")


@dataclass(frozen=True)
class PreviousRounds:
    """The nominal `ratio` after the rounds before this one, and each root's `channels` and `heads` before the first."""
    ratio: float
    channels: Mapping[str, int]
    heads: Mapping[str, int]

    @classmethod
    def of(cls, report: PruneReport) -> "PreviousRounds":
        return cls(report.ratio, {entry["root"]: entry["before"] for entry in report.groups},
                   {entry["root"]: entry.get("heads", {"before": 1})["before"] for entry in report.groups})


@dataclass(frozen=True)
class Allocation:
    """A nominal `ratio` in [0, 1), the `selection` rule that turns it into channels, and their limits.

    `heads`: attention with several heads loses `equal` parts of each, or `whole` ones. `round_to`: kept widths are rounded
    up to multiples of it. A gated hidden unit is removed when its own channel or its gate's is chosen, so that about
    1 - (1 - r)² of them are (PAPER: the size of LDM-4).

    `scope`: the ratio is that of each group (`local`), or of all channels that are ranked together (`scope.SCOPES`). Then
    at least the fraction `floor` of each group is kept, and a gated hidden unit is ranked with its gate.

    `previous`: what earlier rounds removed; groups then end as wide as one round would leave them. In local scope only.
    Raises ValueError for a value outside its range.
    """
    ratio: float
    selection: Selection = field(default_factory=PaperSelection)
    heads: str = "equal"
    round_to: int | None = None
    scope: str = "local"
    floor: float = 0.1
    previous: PreviousRounds | None = None

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
        if self.previous is not None and self.scope != "local":
            raise ValueError(f"scope {self.scope} has no rounds: choose local")

    @property
    def scores_dense(self) -> bool:
        """Whether all groups are scored on the dense model, instead of each after the cuts before it."""
        return self.scope != "local" or not self.selection.lazy

    def portion_counts(self, groups: Sequence[Group], scores: Mapping[str, Tensor | None]) -> dict[str, int]:
        """{root: portions to remove}, ranked over all `groups` with their `scores` {root: [C]}; empty in local scope."""
        ranked = []
        for group in groups if self.scope != "local" else ():
            if (score := scores[group.root]) is not None and not self.obstacle(group):
                portions = self.portions(group, score)
                means = torch.stack([score[portion].double().mean() for portion in portions])
                ranked.append(Ranked(group.root, group.channels, len(portions[0]), means, group.topology))
        return portions_to_remove(ranked, SCOPES[self.scope], self.ratio, self.floor)

    def choose(self, group: Group, scores: Tensor | None, count: int | None = None) -> tuple[list[int], str]:
        """The root's channels to remove, ascending, for `scores` [C]; if there are none, also the reason.

        Beyond the local scope `count` portions are removed. A group with an obstacle needs no scores.
        """
        if obstacle := self.obstacle(group):
            return [], obstacle
        assert scores is not None
        unrounded = self.select(group, scores, any_width, count)
        if not unrounded and count is not None:
            return [], f"in {self.scope} scope ratio {self.ratio:g} takes none of its channels"
        if not unrounded:
            portion = "one" if self.by_head(group) else "one channel in each"
            return [], f"ratio {self.ratio:g} is less than {portion} of {group.described_blocks}"
        if chosen := self.select(group, scores, self.fits(group), count):
            return chosen, ""
        least = group.unit_count - len(group.removed_units(unrounded))
        return [], f"no width from {least} to below {group.unit_count} is a multiple of {self.round_to}"

    def select(self, group: Group, scores: Tensor, fits: Fits, count: int | None) -> list[int]:
        if count is not None:
            return first_portions(self.portions(group, scores), count, fits)
        return self.select_locally(scores, self.ratio_left(group), group, group.heads, fits)

    def select_locally(self, scores: Tensor, ratio: float, group: Group, heads: int, fits: Fits = any_width) -> list[int]:
        """Selects among `scores` [C], divided into the group's blocks, or into `heads` if whole ones are removed."""
        if self.by_head(group):
            return whole_heads(scores, ratio, heads, fits)
        return self.selection.choose(scores, ratio, group.blocks, fits)

    def ratio_left(self, group: Group) -> float:
        """The ratio that brings the group, as narrow as it is now, to the width that `ratio` gives in one round.

        Of gated units (1 - r)² are kept in either case, so that their ratio is what is left between the rounds' ratios.
        """
        if self.previous is None:
            return self.ratio
        if group.gated:
            return 1 - (1 - self.ratio) / (1 - self.previous.ratio)
        dense = self.previous.channels[group.root]
        chosen = self.select_locally(torch.zeros(dense), self.ratio, group, self.previous.heads[group.root])
        count = len(chosen) - (dense - group.channels)
        return max(count - 0.5, 0) / group.channels     # C - int(C (1 - r)) is the count at this r, far from any rounding

    def portions(self, group: Group, scores: Tensor) -> list[list[int]]:
        """The portions in which channels are removed beyond the local scope, least important first, for `scores` [C]."""
        if group.gated:
            by_unit = scores.view(-1, group.unit_count).mean(0).argsort(stable=True).tolist()
            return [list(range(unit, group.channels, group.unit_count)) for unit in by_unit]
        if self.by_head(group):
            return head_portions(scores, group.heads)
        return self.selection.portions(scores, group.blocks)

    def obstacle(self, group: Group) -> str | None:
        """Why no channel of this group can be removed under this allocation; None where that is possible."""
        if self.scope != "local" and group.gated and group.blocks > 1:
            return f"a gated feed-forward whose channels are divided among {group.described_blocks} needs the local scope"
        return group.obstacle

    def by_head(self, group: Group) -> bool:
        heads = group.heads if self.previous is None else self.previous.heads[group.root]
        return self.heads == "whole" and heads > 1

    def fits(self, group: Group) -> Fits:
        """The test whether a choice leaves a positive multiple of `round_to`."""
        step = self.round_to
        if step is None:
            return any_width

        def is_multiple(chosen: list[int]) -> bool:
            kept = group.unit_count - len(group.removed_units(chosen))
            return kept > 0 and kept % step == 0
        return is_multiple
