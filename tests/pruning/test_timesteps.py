"""Which timesteps count, and how much, policy by policy."""

import pytest
import torch

from diffprune.pruning.timesteps import Largest, Threshold, Weights, Window, timesteps_kept

LOSS = torch.tensor([4.0, 10.0, 6.0, 0.9, 20.0])


def test_the_threshold_is_reached_at_the_first_loss_below_the_fraction_of_the_running_maximum() -> None:
    assert timesteps_kept(LOSS, 0.1) == 3         # 0.9 < .1 * 10
    assert timesteps_kept(LOSS, 0.05) == 5        # never below
    assert timesteps_kept(LOSS, 0.7) == 2         # 6 < .7 * 10


def test_the_running_maximum_includes_the_current_loss() -> None:
    assert timesteps_kept(torch.tensor([1.0, 5.0, 5.0]), 1.0) == 3     # a loss is never below itself


def test_threshold_zero_keeps_every_timestep() -> None:
    assert timesteps_kept(torch.zeros(7), 0.0) == 7


def test_a_threshold_counts_what_comes_before_it_and_inclusive_one_more() -> None:
    assert Threshold(0.7).weights(LOSS).tolist() == [1, 1, 0, 0, 0]
    assert Threshold(0.7, inclusive=True).weights(LOSS).tolist() == [1, 1, 1, 0, 0]
    assert Threshold(0.0, inclusive=True).weights(LOSS).tolist() == [1] * 5


def test_a_window_includes_both_ends() -> None:
    assert Window(1, 3).weights(LOSS).tolist() == [0, 1, 1, 1, 0]


def test_the_largest_losses_count_wherever_they_are() -> None:
    assert Largest(2).weights(LOSS).tolist() == [0, 1, 0, 0, 1]
    assert Largest(1).weights(torch.tensor([3.0, 3.0])).tolist() == [1, 0]      # of equal ones the earlier


def test_weights_lie_on_lines_between_their_points() -> None:
    assert Weights([[1, 1.0], [3, 0.0]]).weights(LOSS).tolist() == [0, 1, 0.5, 0, 0]
    assert Weights([[2, 0.25]]).weights(LOSS).tolist() == [0, 0, 0.25, 0, 0]


@pytest.mark.parametrize("points", [[], [[3, 1.0], [1, 1.0]], [[1, 1.0], [1, 2.0]], [[1, 2.0, 3.0]]])
def test_points_that_make_no_curve_are_refused(points: list) -> None:
    with pytest.raises(ValueError, match="ascending t"):
        Weights(points)


@pytest.mark.parametrize("policy", [Threshold(0.1), Threshold(0.7, inclusive=True), Window(1, 3),
                                    Weights([[1, 1.0], [3, 0.5]])])
def test_what_is_known_early_stays_and_nothing_counts_after_the_end(policy: object) -> None:
    whole = policy.weights(LOSS)
    for n in range(1, len(LOSS) + 1):
        assert policy.weights(LOSS[:n]).tolist() == whole[:n].tolist()
        if policy.finished(LOSS[:n]):
            assert not whole[n:].any()
