"""Which channels of a group go, given their scores."""

import torch
from torch import Tensor


def removal_count(channels: int, ratio: float) -> int:
    """n = C - int(C (1 - r)), the paper's rounding."""
    return channels - int(channels * (1 - ratio))


def expendable(scores: Tensor, ratio: float, norm_groups: int) -> list[int]:
    """The channels to remove, ascending, for `scores` [C] and a nominal ratio in [0, 1).

    With a GroupNorm of G > 1 groups the channels fall into G contiguous blocks of C/G, and in each block on its own
    the n // G least important go; else the n least important of all.
    """
    blocks = scores.view(norm_groups, -1)
    fewest = torch.argsort(blocks, dim=1)[:, :removal_count(len(scores), ratio) // norm_groups]
    offsets = torch.arange(norm_groups)[:, None] * blocks.shape[1]
    return sorted((fewest + offsets).flatten().tolist())
