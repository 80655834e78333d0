"""The learning rate and the decay of the average at every step."""

import math

import pytest
import torch

from diffprune.training.recipe import Recipe


def test_the_constant_rate_is_the_one_that_was_asked_for() -> None:
    recipe = Recipe(steps=100, lr=0.5)
    assert {recipe.learning_rate(step) for step in range(100)} == {0.5}


def test_warm_up_rises_in_a_straight_line() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=10)
    assert [recipe.learning_rate(step) for step in (0, 4, 9, 10, 99)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.5])


def test_the_cosine_falls_from_the_full_rate_to_nothing() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=20, rate="cosine")
    rates = [recipe.learning_rate(step) for step in range(20, 101)]
    assert rates[0] == 0.5
    assert rates[40] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_a_warm_up_longer_than_the_training_is_all_there_is() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=200, rate="cosine")
    assert recipe.learning_rate(99) == pytest.approx(0.25)


def test_a_constant_decay_is_constant() -> None:
    recipe = Recipe(steps=101, ema=0.9)
    assert [recipe.ema_decay(step) for step in (0, 1, 100)] == [0.9] * 3


@pytest.mark.parametrize(("decay", "steps"), [(0.9999, 200), (0.9999, 1000), (0.99, 6), (0.5, 4)])
def test_an_average_longer_than_the_training_warms_up(decay: float, steps: int) -> None:
    recipe, rest = Recipe(steps, ema=decay), 1.0
    for step in range(steps):
        rest *= recipe.ema_decay(step)
    assert rest < 0.01
    assert recipe.average == f"{decay:g} with warm-up"
    assert recipe.ema_decay(0) == 0.1
    assert recipe.ema_decay(10**6) == decay


@pytest.mark.parametrize(("decay", "steps"), [(0.9999, 100_000), (0.999, 200_000), (0.99, 400), (0.0, 1), (0.5, 5)])
def test_the_published_recipes_and_that_of_the_digits_keep_their_constant_decay(decay: float, steps: int) -> None:
    recipe = Recipe(steps, ema=decay)
    assert {recipe.ema_decay(step) for step in range(min(steps, 1000))} == {decay}
    assert recipe.average == decay


def test_a_power_function_weighs_weight_i_by_i_to_the_gamma() -> None:
    """Karras et al. 2024, eq. 3: the average of theta_1 … theta_t has weights proportional to i^gamma, for large i."""
    recipe, steps = Recipe(steps=400, ema_power=3), 400
    weight = torch.zeros(1, dtype=torch.double).expand(steps).clone()      # of each step's weights in the average
    for step in range(steps):
        weight *= recipe.ema_decay(step)
        weight[step] += 1 - recipe.ema_decay(step)
    assert recipe.ema_decay(0) == 0
    assert float(weight.sum()) == pytest.approx(1)
    assert float(weight[199] / weight[399]) == pytest.approx(0.5**3, rel=0.02)


@pytest.mark.parametrize(("gamma", "sigma_rel"), [(16.97, 0.05), (6.94, 0.10)])
def test_the_documented_widths_are_those_of_the_formula(gamma: float, sigma_rel: float) -> None:
    assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(sigma_rel, rel=2e-3)
