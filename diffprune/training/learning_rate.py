"""The learning rate of every step."""

import math
from collections.abc import Callable

from omegaconf import DictConfig

# Each takes the fraction in 0 … 1 of the steps after the warm-up that are done, and gives the factor of schedule.lr.
RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,      # Loshchilov and Hutter 2017, eq. 5, one period to 0
}


def learning_rate(recipe: DictConfig, step: int) -> float:
    """The rate of `step` (0, 1, …): a straight rise over `warmup` steps, then `schedule.rate`."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    return recipe.lr * RATES[recipe.rate]((step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
