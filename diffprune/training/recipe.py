"""How a model is trained."""

from dataclasses import dataclass

from diffprune.training.losses import Loss, NoisePrediction


@dataclass(frozen=True)
class Recipe:
    """`steps` optimiser steps of Adam (AdamW where `weight_decay` > 0), each on `batch` images over all ranks.

    Each rank splits its images into `accumulate` micro-batches. `min_snr`: gamma of the loss weights, None for equal ones.
    `lr` rises linearly over `warmup` steps, then follows `rate` ("constant", "cosine"). `clip`: total norm of the gradients,
    None for no clipping. `dropout`: probability inside the residual blocks. `ema`: decay of the average of the weights, or
    with `ema_power` the exponent of a power function.
    """
    steps: int
    batch: int = 128
    accumulate: int = 1
    loss: type[Loss] = NoisePrediction
    min_snr: float | None = None
    lr: float = 2e-4
    rate: str = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0
    dropout: float = 0.0
    ema: float = 0.9999
    ema_power: float | None = None
