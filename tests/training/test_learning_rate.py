"""The learning rate of every step."""

import pytest

from diffprune.training.learning_rate import learning_rate
from diffprune.training.recipe import Recipe


def test_the_constant_rate_is_the_one_that_was_asked_for() -> None:
    recipe = Recipe(steps=100, lr=0.5)
    assert {learning_rate(recipe, step) for step in range(100)} == {0.5}


def test_warm_up_rises_in_a_straight_line() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10, 99)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.5])


def test_the_cosine_falls_from_the_full_rate_to_nothing() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=20, rate="cosine")
    rates = [learning_rate(recipe, step) for step in range(20, 101)]
    assert rates[0] == 0.5
    assert rates[40] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_a_warm_up_longer_than_the_training_is_all_there_is() -> None:
    recipe = Recipe(steps=100, lr=0.5, warmup=200, rate="cosine")
    assert learning_rate(recipe, 99) == pytest.approx(0.25)
