"""The moving average."""

import math

import pytest
import torch

from diffprune.training.ema import decay, follow, swap
from diffprune.training.recipe import Recipe


def test_a_constant_decay_is_constant() -> None:
    recipe = Recipe(steps=101, ema=0.9)
    assert [decay(recipe, step) for step in (0, 1, 100)] == [0.9] * 3


def test_a_power_function_weighs_weight_i_by_i_to_the_gamma() -> None:
    """Karras et al. 2024, eq. 3: the average of theta_1 … theta_t has weights proportional to i^gamma, for large i."""
    recipe, steps = Recipe(steps=400, ema_power=3), 400
    weight = torch.zeros(1, dtype=torch.double).expand(steps).clone()      # of each step's weights in the average
    for step in range(steps):
        weight *= decay(recipe, step)
        weight[step] += 1 - decay(recipe, step)
    assert decay(recipe, 0) == 0
    assert float(weight.sum()) == pytest.approx(1)
    assert float(weight[199] / weight[399]) == pytest.approx(0.5**3, rel=0.02)


@pytest.mark.parametrize(("gamma", "sigma_rel"), [(16.97, 0.05), (6.94, 0.10)])
def test_the_documented_widths_are_those_of_the_formula(gamma: float, sigma_rel: float) -> None:
    assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(sigma_rel, rel=2e-3)


def test_following_and_swapping_work_in_place() -> None:
    average, weights = [torch.zeros(3), torch.ones(2)], [torch.ones(3), torch.zeros(2)]
    follow(average, weights, 0.75)
    assert [t.tolist() for t in average] == [[0.25] * 3, [0.75] * 2]
    swap(average, weights)
    assert [t.tolist() for t in weights] == [[0.25] * 3, [0.75] * 2]
    assert [t.tolist() for t in average] == [[1.0] * 3, [0.0] * 2]
