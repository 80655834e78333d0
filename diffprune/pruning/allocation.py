"""How many channels each dependency group loses, and in what portions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from diffprune.models.cost import Cost
from diffprune.pruning.dependency import Group
from diffprune.pruning.parts import Parts
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.scope import SCOPES, Ranked, portions_to_remove
from diffprune.pruning.selection import PaperSelection, Selection, removal_count

HEADS = ("equal", "whole")
QUANTITIES = ("macs", "params")


@dataclass(frozen=True)
class Allocation:
    """A nominal `ratio` in [0, 1), the `selection` rule that turns it into channels, and their limits.

    `heads`: attention with several heads loses `equal` parts of each, or `whole` ones. `round_to`: kept widths are rounded
    up to multiples of it. A gated hidden unit is removed when its own channel or its gate's is chosen, so that about
    1 - (1 - r)² of them are (PAPER: the size of LDM-4).

    `scope`: the ratio is that of each group (`local`), or of all channels that are ranked together (`scope.SCOPES`). Then
    at least the fraction `floor` of each group is kept, and a gated hidden unit is ranked with its gate.
    `quantity`: the cost in cost-aware scope, "macs" or "params".

    `parts`: which are pruned, and which at another ratio (in local scope and one round only). `previous`: the report on
    earlier rounds; groups then end as wide as one round would leave them. In local scope only.
    Raises ValueError for a value outside its range.
    """
    ratio: float
    selection: Selection = field(default_factory=PaperSelection)
    heads: str = "equal"
    round_to: int | None = None
    scope: str = "local"
    floor: float = 0.1
    previous: PruneReport | None = None
    quantity: str = "macs"
    parts: Parts = field(default_factory=Parts)

    def __post_init__(self) -> None:
        for name in ("ratio", "floor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, 1)")
        for name, choices in (("heads", HEADS), ("scope", SCOPES), ("quantity", QUANTITIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is not known: choose one of {', '.join(choices)}")
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"round_to {self.round_to} is not a width: give a whole number from 1 on")
        if self.previous is not None and self.scope != "local":
            raise ValueError(f"scope {self.scope} has no rounds: choose local")
        if self.parts.ratios and (self.scope != "local" or self.previous is not None or not self.ratio):
            raise ValueError("ratios of parts go with a ratio above 0, the local scope and one round alone")

    @property
    def scores_dense(self) -> bool:
        """Whether all groups are scored on the dense model, instead of each after the cuts before it."""
        return self.scope != "local" or not self.selection.lazy

    def portion_counts(self, groups: Sequence[Group], scores: Mapping[str, Tensor | None],
                       costs: Mapping[str, Cost]) -> dict[str, int]:
        """{root: portions to remove}, ranked over all `groups` with their `scores` {root: [C]}; empty in local scope.
        The cost-aware scope needs the `costs` {layer: that of its weight} of the dense model."""
        amounts = {layer: getattr(cost, self.quantity) for layer, cost in costs.items()}
        ranked = []
        for group in groups if self.scope != "local" else ():
            if (score := scores[group.root]) is not None and not self.obstacle(group):
                portions = self.portions(group, score)
                means = torch.stack([score[portion].double().mean() for portion in portions])
                size = len(portions[0])
                cost = group.saved(amounts, size) / size if amounts else 0.0
                ranked.append(Ranked(group.root, group.channels, size, means, group.topology, cost))
        return portions_to_remove(ranked, self.scope, self.ratio, self.floor)

    def choose(self, group: Group, scores: Tensor | None, count: int | None = None) -> tuple[list[int], str]:
        """The root's channels to remove, ascending, for `scores` [C]; if there are none, also the reason. Beyond the local
        scope `count` portions are removed. A group with an obstacle needs no scores."""
        if obstacle := self.obstacle(group):
            return [], obstacle
        assert scores is not None
        if not (wanted := self.local_count(group) if count is None else count):
            if count is not None:
                return [], f"in {self.scope} scope ratio {self.ratio:g} takes none of its channels"
            portion = "one" if self.by_head(group) else "one channel in each"
            ratio = self.parts.ratio(group.outputs, self.ratio)
            return [], f"ratio {ratio:g} is less than {portion} of {group.described_blocks}"
        # While the width is no multiple of `round_to`, the most important portion is kept after all.
        portions = self.portions(group, scores, wanted if count is None else None)
        for number in range(wanted, 0, -1):
            chosen = sorted(chain(*portions[:number]))
            if self.round_to is None:
                return chosen, ""
            kept = group.kept_units(chosen)
            if kept > 0 and kept % self.round_to == 0:
                return chosen, ""
        least = group.kept_units(list(chain(*portions[:wanted])))
        return [], f"no width from {least} to below {group.unit_count} is a multiple of {self.round_to}"

    def local_count(self, group: Group) -> int:
        """How many portions of the group, as narrow as it is now, the local scope removes."""
        if self.previous is None:
            ratio = self.parts.ratio(group.outputs, self.ratio)
            return self.one_round_count(group.channels, group.heads, group.blocks, ratio)
        if group.gated:     # (1 - r)² of gated units are kept in either case, so that this ratio is left between the rounds'
            ratio = 1 - (1 - self.ratio) / (1 - self.previous.ratio)
            return self.one_round_count(group.channels, group.heads, group.blocks, ratio)
        dense, heads = self.previous.dense_width(group.root)
        portion = dense // heads if self.by_head(group) else group.blocks
        count = self.one_round_count(dense, heads, group.blocks, self.ratio)
        return max(count - (dense - group.channels) // portion, 0)

    def one_round_count(self, channels: int, heads: int, blocks: int, ratio: float) -> int:
        """How many portions one round in local scope removes: whole heads, but never all, or channels from each block."""
        if self.heads == "whole" and heads > 1:
            return min(removal_count(channels, ratio) // (channels // heads), heads - 1)
        return self.selection.count(channels, ratio, blocks)

    def portions(self, group: Group, scores: Tensor, count: int | None = None) -> list[list[int]]:
        """The portions in which channels are removed, least important first, for `scores` [C]; all, or the first `count`."""
        if self.scope != "local" and group.gated:
            by_unit = scores.view(-1, group.unit_count).mean(0).argsort(stable=True).tolist()
            return [list(range(unit, group.channels, group.unit_count)) for unit in by_unit]
        if self.by_head(group):
            length = group.channels // group.heads
            by_head = scores.view(group.heads, -1).mean(1).argsort(stable=True).tolist()
            return [list(range(head * length, (head + 1) * length)) for head in by_head]
        return self.selection.portions(scores, group.blocks, len(scores) // group.blocks if count is None else count)

    def obstacle(self, group: Group) -> str | None:
        """Why no channel of this group can be removed under this allocation; None where that is possible."""
        if (kept := self.parts.kept(group.outputs)) is not None:
            return f"{kept} keeps its channels, as pruner.only or pruner.keep says"
        if self.scope != "local" and group.gated and group.blocks > 1:
            return f"a gated feed-forward whose channels are divided among {group.described_blocks} needs the local scope"
        return group.obstacle

    def by_head(self, group: Group) -> bool:
        """Whether whole heads of the group are removed, also where earlier rounds have left a single one."""
        return self.heads == "whole" and (self.previous.dense_width(group.root)[1] if self.previous else group.heads) > 1
