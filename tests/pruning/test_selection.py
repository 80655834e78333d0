"""The paper's selection rule."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffprune.pruning.allocation import Allocation
from diffprune.pruning.selection import PaperSelection, TorchPruningSelection, removal_count


def expendable(scores: torch.Tensor, ratio: float, blocks: int, selection: type = PaperSelection) -> list[int]:
    group = SimpleNamespace(outputs=["x"], channels=len(scores), heads=1, blocks=blocks, gated=False, obstacle=None,
                            described_blocks="")
    return Allocation(ratio, selection()).choose(group, scores)[0]


def test_the_least_important_go_where_no_norm_is_coupled() -> None:
    assert expendable(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), 0.4, 1) == [1, 2]


def test_each_norm_block_loses_its_own_least_important() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 40.0, 30.0, 20.0, 10.0])
    assert expendable(scores, 0.5, 2) == [0, 1, 6, 7]


def test_widths_at_thirty_percent_are_the_published_ones() -> None:
    for width, coupled, free in ((128, 96, 89), (256, 192, 179), (512, 384, 358)):
        scores = torch.rand(width)
        assert width - len(expendable(scores, 0.3, 32)) == coupled
        assert width - len(expendable(scores, 0.3, 1)) == free


def test_less_than_one_channel_per_block_removes_nothing() -> None:
    assert expendable(torch.rand(64), 0.3, 32) == []


@given(blocks=st.integers(1, 8), per_block=st.integers(1, 12), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_every_block_loses_equally_and_only_its_least(blocks: int, per_block: int, ratio: float, seed: int) -> None:
    scores = torch.rand(blocks * per_block, generator=torch.Generator().manual_seed(seed))
    gone = expendable(scores, ratio, blocks)
    each = removal_count(len(scores), ratio) // blocks
    assert len(gone) == each * blocks
    for block in range(blocks):
        inside = [c for c in gone if c // per_block == block]
        kept = [c for c in range(block * per_block, (block + 1) * per_block) if c not in inside]
        assert len(inside) == each
        assert not inside or not kept or max(scores[inside]) <= min(scores[kept])


def test_torch_prunings_rule_takes_the_same_offsets_from_all_blocks() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 9.0, 40.0, 30.0, 20.0, 10.0])
    assert expendable(scores, 0.25, 2, TorchPruningSelection) == [3, 7]


def test_torch_prunings_rule_rounds_up_inside_a_block() -> None:
    for width, coupled in ((128, 64), (256, 160), (512, 352)):
        assert width - len(expendable(torch.rand(width), 0.3, 32, TorchPruningSelection)) == coupled
