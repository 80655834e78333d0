"""The moving average."""

import torch

from diffprune.training.ema import follow, swap


def test_following_and_swapping_work_in_place() -> None:
    average, weights = [torch.zeros(3), torch.ones(2)], [torch.ones(3), torch.zeros(2)]
    follow(average, weights, 0.75)
    assert [t.tolist() for t in average] == [[0.25] * 3, [0.75] * 2]
    swap(average, weights)
    assert [t.tolist() for t in weights] == [[0.25] * 3, [0.75] * 2]
    assert [t.tolist() for t in average] == [[1.0] * 3, [0.0] * 2]
