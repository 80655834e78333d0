"""How much goes from a dependency group, and in what portions."""

from dataclasses import dataclass, field

from torch import Tensor

from diffprune.groups import Group
from diffprune.selection import Fits, PaperSelection, Selection, anything, whole_heads

HEADS = ("equal", "whole")


@dataclass(frozen=True)
class Rule:
    """A nominal `ratio` in [0, 1), the `selection` that it is applied by, and two limits to that.

    `heads`: from attention with several heads go `equal` parts of each, or `whole` ones. (With one head both mean its
    channels.) `round_to`: kept widths are multiples of it, rounded up, and a group's blocks stay equally long. A gated
    hidden unit goes when its own channel or its gate's is chosen: about 1 - (1 - r)² of them do (PAPER: LDM-4's size).
    Raises ValueError for a value outside its range.
    """
    ratio: float
    selection: Selection = field(default_factory=PaperSelection)
    heads: str = "equal"
    round_to: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio {self.ratio} is outside [0, 1)")
        if self.heads not in HEADS:
            raise ValueError(f"heads {self.heads!r} is not known: choose one of {', '.join(HEADS)}")
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"round_to {self.round_to} is not a width: give a whole number from 1 on")

    def choose(self, group: Group, scores: Tensor | None) -> tuple[list[int], str]:
        """The root's channels to remove, ascending, for `scores` [C]; where there are none, the reason.

        A group with an obstacle needs no scores.
        """
        if obstacle := group.obstacle:
            return [], obstacle
        wanted = self.pick(group, scores, anything)
        if not wanted:
            portion = "one" if self.by_head(group) else "one channel in each"
            return [], f"ratio {self.ratio:g} is less than {portion} of {group.described_blocks}"
        if chosen := self.pick(group, scores, self.fits(group)):
            return chosen, ""
        least = group.units - len(group.lost_units(wanted))
        return [], f"no width from {least} to below {group.units} is a multiple of {self.round_to}"

    def pick(self, group: Group, scores: Tensor, fits: Fits) -> list[int]:
        if self.by_head(group):
            return whole_heads(scores, self.ratio, group.heads, fits)
        return self.selection.choose(scores, self.ratio, group.blocks, fits)

    def by_head(self, group: Group) -> bool:
        return self.heads == "whole" and group.heads > 1

    def fits(self, group: Group) -> Fits:
        """Whether a choice leaves a multiple of `round_to`, and at least one."""
        if self.round_to is None:
            return anything

        def multiple(chosen: list[int]) -> bool:
            kept = group.units - len(group.lost_units(chosen))
            return kept > 0 and kept % self.round_to == 0
        return multiple
