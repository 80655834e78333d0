"""The learning rate of every step."""

import math
from collections.abc import Callable

from diffprune.training.recipe import Recipe

# The factor of `Recipe.lr` by the fraction, in 0 … 1, of the steps after the warm-up that are done.
RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,      # Loshchilov and Hutter 2017, eq. 5, one period to 0
}


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of `step` (0, 1, …): a linear rise over `recipe.warmup` steps, then `recipe.rate`."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    return recipe.lr * RATES[recipe.rate]((step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
