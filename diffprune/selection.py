"""Which channels of a group go, given their scores: two rules that are both in use, and give different models."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Selection(Protocol):
    """`lazy`: a group is scored when its turn comes, after the cuts before it; else all are scored on the dense model."""
    lazy: ClassVar[bool]

    def choose(self, scores: Tensor, ratio: float, blocks: int) -> list[int]:
        """The channels to remove, ascending, for `scores` [C] and a nominal ratio in [0, 1).

        `blocks`: the channels fall into that many contiguous blocks of C / blocks, which must stay equally long.
        """


class PaperSelection:
    """n = C - int(C (1 - r)); in each block on its own the n // blocks least important go."""
    lazy: ClassVar[bool] = True

    def choose(self, scores: Tensor, ratio: float, blocks: int) -> list[int]:
        fewest = torch.argsort(scores.view(blocks, -1), dim=1, stable=True)
        return in_every_block(fewest[:, :removal_count(len(scores), ratio) // blocks], len(scores) // blocks)


class TorchPruningSelection:
    """Torch-Pruning's since 1.5: the blocks' mean score decides, and the same offsets go from all of them.

    n = C/G - int(C/G (1 - r)) per block of C/G, which rounds the removal up inside each block.
    """
    lazy: ClassVar[bool] = False

    def choose(self, scores: Tensor, ratio: float, blocks: int) -> list[int]:
        mean = scores.view(blocks, -1).mean(0)
        fewest = torch.topk(mean, removal_count(len(mean), ratio), largest=False).indices
        return in_every_block(fewest.expand(blocks, -1), len(mean))


def removal_count(channels: int, ratio: float) -> int:
    """n = C - int(C (1 - r)), the paper's rounding."""
    return channels - int(channels * (1 - ratio))


def in_every_block(offsets: Tensor, length: int) -> list[int]:
    """Channel numbers, ascending, for `offsets` [blocks, n] within contiguous blocks of `length` channels."""
    return sorted((offsets + length * torch.arange(len(offsets))[:, None]).flatten().tolist())


SELECTIONS: dict[str, type[Selection]] = {"paper": PaperSelection, "torch_pruning": TorchPruningSelection}
