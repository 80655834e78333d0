"""How a model is trained."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.training.losses import NoisePrediction, Term

LARGEST_REST = 0.05         # of the average's weights that may still be the pruned ones after the last step

# The factor of `Recipe.lr` by the fraction, in 0 … 1, of the steps after the warm-up that are done.
RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,      # Loshchilov and Hutter 2017, eq. 5, one period to 0
}


@dataclass(frozen=True)
class Recipe:
    """`steps` optimiser steps of Adam (AdamW where `weight_decay` > 0), each on `batch` images over all ranks.

    Each rank splits its images into `accumulate` micro-batches. `objective`: the weight of each term of the loss. `min_snr`:
    gamma of the images' weights, None for equal ones. `lr` rises linearly over `warmup` steps, then follows `rate`
    ("constant", "cosine"). `clip`: total norm of the gradients, None for no clipping. `dropout`: probability inside the
    residual blocks. `unconditional`: that with which an image's class or caption is left out. `ema`: decay of the average of
    the weights, approached from below where the training is short for it; with `ema_power` instead the exponent of a power
    function.
    """
    steps: int
    batch: int = 128
    accumulate: int = 1
    objective: Mapping[type[Term], float] = field(default_factory=lambda: {NoisePrediction: 1.0})
    min_snr: float | None = None
    lr: float = 2e-4
    rate: str = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0
    dropout: float = 0.0
    unconditional: float = 0.0
    ema: float = 0.9999
    ema_power: float | None = None

    def step_macs(self, student: int, dense: int) -> int:
        """Multiply-accumulates of a step, the teacher's included, for those of one evaluation of one image by the `student`
        and by the `dense` model. Forward and backward pass together count as three evaluations."""
        evaluations = 1 + sum(term.evaluations for term in self.objective)
        taught = any(term.needs_teacher for term in self.objective)
        return self.batch * evaluations * (EVALUATIONS_PER_STEP * student + (dense if taught else 0))

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step` (0, 1, …): a linear rise over `warmup` steps, then `rate`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * RATES[self.rate]((step - self.warmup) / max(1, self.steps - self.warmup))

    @property
    def warms_up_average(self) -> bool:
        """Whether a constant decay would leave more than 5 % of the pruned weights in the average after `steps`."""
        return self.ema_power is None and self.ema ** self.steps > LARGEST_REST

    @property
    def average(self) -> float | str:
        """The average of the weights in words, or its constant decay."""
        if self.ema_power is not None:
            return f"power {self.ema_power:g}"
        return f"{self.ema:g} with warm-up" if self.warms_up_average else self.ema

    def ema_decay(self, step: int) -> float:
        """The decay beta of the average, in [0, 1), at the update of `step` (0, 1, …).

        `ema`, a constant; where the average warms up, at most (1 + step) / (10 + step). With `ema_power` = gamma the power
        function (1 - 1/t)^(gamma + 1), t = step + 1 (Karras et al. 2024, eq. 4), whose first beta is 0. Its width relative
        to the training's length is sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)): gamma 16.97 is 5 %, 6.94 is
        10 %.
        """
        if self.ema_power is not None:
            return (1 - 1 / (step + 1)) ** (self.ema_power + 1)
        return min(self.ema, (1 + step) / (10 + step)) if self.warms_up_average else self.ema
