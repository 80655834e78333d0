"""Which channels of a group go, given their scores: two rules that are both in use, and give different models."""

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Fits = Callable[[list[int]], bool]


def anything(chosen: list[int]) -> bool:
    """Every choice leaves an acceptable width."""
    return True


class Selection(Protocol):
    """`lazy`: a group is scored when its turn comes, after the cuts before it; else all are scored on the dense model."""
    lazy: ClassVar[bool]

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        """The channels in the portions in which they can go, one of each of the `blocks`, least important first."""

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = anything) -> list[int]:
        """The channels to remove, ascending, for `scores` [C] and a nominal ratio in [0, 1).

        `blocks`: the channels fall into that many contiguous blocks of C / blocks, which must stay equally long. What
        does not fit is cut short: the most important of the chosen stay, as many in every block, until it does.
        """


class PaperSelection:
    """n = C - int(C (1 - r)); in each block on its own the n // blocks least important go."""
    lazy: ClassVar[bool] = True

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        fewest = torch.argsort(scores.view(blocks, -1), dim=1, stable=True)
        return [in_every_block(fewest[:, n:n + 1], fewest.shape[1]) for n in range(fewest.shape[1])]

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = anything) -> list[int]:
        return first_portions(self.portions(scores, blocks), removal_count(len(scores), ratio) // blocks, fits)


class TorchPruningSelection:
    """Torch-Pruning's since 1.5: the blocks' mean score decides, and the same offsets go from all of them.

    n = C/G - int(C/G (1 - r)) per block of C/G, which rounds the removal up inside each block.
    """
    lazy: ClassVar[bool] = False

    def portions(self, scores: Tensor, blocks: int) -> list[list[int]]:
        mean = scores.view(blocks, -1).mean(0)
        fewest = torch.topk(mean, len(mean), largest=False).indices
        return [in_every_block(offset.expand(blocks, 1), len(mean)) for offset in fewest]

    def choose(self, scores: Tensor, ratio: float, blocks: int, fits: Fits = anything) -> list[int]:
        mean = scores.view(blocks, -1).mean(0)
        fewest = torch.topk(mean, removal_count(len(mean), ratio), largest=False).indices
        return cut_short(len(fewest), lambda n: in_every_block(fewest[:n].expand(blocks, -1), len(mean)), fits)


def whole_heads(scores: Tensor, ratio: float, heads: int, fits: Fits = anything) -> list[int]:
    """The channels of the heads with the lowest mean score, ascending, for `scores` [C] of heads of C / heads channels.

    As many heads as fit into the n = C - int(C (1 - r)) channels that would go one by one, and never the last.
    """
    count = min(removal_count(len(scores), ratio) // (len(scores) // heads), heads - 1)
    return first_portions(head_portions(scores, heads), count, fits)


def head_portions(scores: Tensor, heads: int) -> list[list[int]]:
    """The channels of each head, those of the lowest mean score first."""
    length = len(scores) // heads
    return [list(range(head * length, (head + 1) * length))
            for head in torch.argsort(scores.view(heads, -1).mean(1), stable=True).tolist()]


def first_portions(portions: list[list[int]], count: int, fits: Fits = anything) -> list[int]:
    """The channels, ascending, of the first `count` portions, or of as many of them as fit."""
    return cut_short(count, lambda n: sorted(channel for portion in portions[:n] for channel in portion), fits)


def removal_count(channels: int, ratio: float) -> int:
    """n = C - int(C (1 - r)), the paper's rounding."""
    return channels - int(channels * (1 - ratio))


def in_every_block(offsets: Tensor, length: int) -> list[int]:
    """Channel numbers, ascending, for `offsets` [blocks, n] within contiguous blocks of `length` channels."""
    return sorted((offsets + length * torch.arange(len(offsets))[:, None]).flatten().tolist())


def cut_short(count: int, choice: Callable[[int], list[int]], fits: Fits) -> list[int]:
    """The first of choice(count), choice(count - 1), … that fits and takes anything; none where no such is left."""
    return next((chosen for n in range(count, 0, -1) if fits(chosen := choice(n))), [])


SELECTIONS: dict[str, type[Selection]] = {"paper": PaperSelection, "torch_pruning": TorchPruningSelection}
