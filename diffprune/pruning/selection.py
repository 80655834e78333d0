"""Selection rules: which channels of a group are removed, given their scores. Two are in use; they give different models."""

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Fits = Callable[[list[int]], bool]


def any_width(chosen: list[int]) -> bool:
    """Accepts every choice."""
    return True


class Selection(Protocol):
    """`lazy`: whether a group is scored after the cuts before it, instead of all groups on the dense model."""
    lazy: ClassVar[bool]

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        """The portions in which channels can be removed, one from each of the `blocks`, least important first."""
        ...

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = any_width) -> list[int]:
        """The channels to remove, ascending, for `scores` [C] and a nominal ratio in [0, 1).

        The channels fall into `blocks` contiguous blocks of C / blocks, which must stay equally long. While the choice does
        not fit, the most important of the chosen channels are kept after all, one in every block.
        """
        ...


class PaperSelection:
    """The paper's: of n = C - int(C (1 - r)) channels the n // blocks least important of each block are removed."""
    lazy: ClassVar[bool] = True

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        order = torch.argsort(scores.view(blocks, -1), dim=1, stable=True)
        return [in_every_block(order[:, n:n + 1], order.shape[1]) for n in range(order.shape[1])]

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = any_width) -> list[int]:
        return first_portions(self.portions(scores, blocks), removal_count(len(scores), ratio) // blocks, fits)


class TorchPruningSelection:
    """Torch-Pruning's since 1.5: scores are averaged over the blocks, and the same offsets are removed from each.

    n = C/G - int(C/G (1 - r)) per block of C/G, which rounds the removal up inside each block.
    """
    lazy: ClassVar[bool] = False

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        mean = scores.view(blocks, -1).mean(0)
        order = torch.topk(mean, len(mean), largest=False).indices
        return [in_every_block(offset.expand(blocks, 1), len(mean)) for offset in order]

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = any_width) -> list[int]:
        mean = scores.view(blocks, -1).mean(0)
        least = torch.topk(mean, removal_count(len(mean), ratio), largest=False).indices
        return cut_short(len(least), lambda n: in_every_block(least[:n].expand(blocks, -1), len(mean)), fits)


def whole_heads(scores: Tensor, ratio: float, heads: int, fits: Fits = any_width) -> list[int]:
    """The channels of the heads with the lowest mean score, ascending, for `scores` [C] of heads of C / heads channels.

    These are as many heads as fit into n = C - int(C (1 - r)) channels, but never all.
    """
    count = min(removal_count(len(scores), ratio) // (len(scores) // heads), heads - 1)
    return first_portions(head_portions(scores, heads), count, fits)


def head_portions(scores: Tensor, heads: int) -> list[list[int]]:
    """The channels of each head; the head with the lowest mean score comes first."""
    length = len(scores) // heads
    return [list(range(head * length, (head + 1) * length))
            for head in torch.argsort(scores.view(heads, -1).mean(1), stable=True).tolist()]


def first_portions(portions: list[list[int]], count: int, fits: Fits = any_width) -> list[int]:
    """The channels, ascending, of the first `count` portions, or of as many as fit."""
    return cut_short(count, lambda n: sorted(channel for portion in portions[:n] for channel in portion), fits)


def removal_count(channels: int, ratio: float) -> int:
    """n = C - int(C (1 - r)), the paper's rounding."""
    return channels - int(channels * (1 - ratio))


def in_every_block(offsets: Tensor, length: int) -> list[int]:
    """Channel numbers, ascending, for `offsets` [blocks, n] within contiguous blocks of `length` channels."""
    return sorted((offsets + length * torch.arange(len(offsets))[:, None]).flatten().tolist())


def cut_short(count: int, choice: Callable[[int], list[int]], fits: Fits) -> list[int]:
    """The first of choice(count), choice(count - 1), … choice(1) that fits and is not empty; else an empty list."""
    return next((chosen for n in range(count, 0, -1) if fits(chosen := choice(n))), [])


SELECTIONS: dict[str, type[Selection]] = {"paper": PaperSelection, "torch_pruning": TorchPruningSelection}
