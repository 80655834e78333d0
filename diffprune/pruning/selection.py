"""Selection rules: which channels of a group are removed, given their scores. Two are in use; they give different models."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Selection(Protocol):
    """A rule for channels that fall into `blocks` contiguous blocks of C / blocks, which must stay equally long. `lazy`:
    whether a group is scored after the cuts before it, instead of all groups on the dense model."""
    lazy: ClassVar[bool]

    def count(self, channels: int, ratio: float, blocks: int) -> int:
        """How many of each block's channels a nominal ratio in [0, 1) removes."""
        ...

    def portions(self, scores: Tensor, blocks: int, count: int) -> list[list[int]]:
        """The first `count` portions for `scores` [C], one channel from each block, ascending; the least important first."""
        ...


class PaperSelection:
    """The paper's: of n = C - int(C (1 - r)) channels the n // blocks least important of each block are removed."""
    lazy: ClassVar[bool] = True

    def count(self, channels: int, ratio: float, blocks: int) -> int:
        return removal_count(channels, ratio) // blocks

    def portions(self, scores: Tensor, blocks: int, count: int) -> list[list[int]]:
        return across_blocks(torch.argsort(scores.view(blocks, -1), dim=1, stable=True)[:, :count], len(scores))


class TorchPruningSelection:
    """Torch-Pruning's since 1.5: scores are averaged over the blocks, and the same offsets are removed from each.

    n = C/G - int(C/G (1 - r)) per block of C/G, which rounds the removal up inside each block.
    """
    lazy: ClassVar[bool] = False

    def count(self, channels: int, ratio: float, blocks: int) -> int:
        return removal_count(channels // blocks, ratio)

    def portions(self, scores: Tensor, blocks: int, count: int) -> list[list[int]]:
        least = torch.topk(scores.view(blocks, -1).mean(0), count, largest=False).indices
        return across_blocks(least.expand(blocks, -1), len(scores))


def removal_count(channels: int, ratio: float) -> int:
    """n = C - int(C (1 - r)), the paper's rounding."""
    return channels - int(channels * (1 - ratio))


def across_blocks(offsets: Tensor, channels: int) -> list[list[int]]:
    """Channel numbers for `offsets` [blocks, n] within the blocks of `channels`: n lists of one channel from each block."""
    return (offsets + channels // len(offsets) * torch.arange(len(offsets))[:, None]).T.tolist()


SELECTIONS: dict[str, type[Selection]] = {"paper": PaperSelection, "torch_pruning": TorchPruningSelection}
