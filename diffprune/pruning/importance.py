"""How much the loss depends on every weight: one walk over the timesteps, reduced to terms per channel pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffprune.models.model_folder import DiffusionModel
from diffprune.pruning.criteria import reduce_term
from diffprune.pruning.gradients import Calibration, Gradients, scored
from diffprune.pruning.timesteps import Gate

Terms = dict[str, dict[str, Tensor]]    # {term: {layer: [O, I] or [C]}}

GRADIENT_TERMS = ("wg", "wg2", "abs_wg")


@dataclass(frozen=True)
class Walk:
    """`loss` [T]: L_t of every timestep. Per threshold how many timesteps' gradients were summed, and the sum's terms."""
    loss: Tensor
    kept: dict[float, int]
    terms: dict[float, Terms]


def walk(model: DiffusionModel, x_0: Tensor, eps: Tensor, thresholds: Sequence[float], mean_loss: bool = False,
         inclusive: bool = False, context: Tensor | None = None) -> Walk:
    """Sums grad L_t over t = 0, 1, … and keeps the terms of the sum each time a threshold's gate closes.

    `x_0`, `eps` [B, C, H, W] and the `context` [B, 1, D] of a class-conditional model are the same at every t. L_t is
    the squared error summed over C, H, W (`mean_loss`: their mean), mean over B. With `inclusive` the timestep at which
    a gate closes counts as well. Once every gate is closed the walk goes on without gradients, for the rest of the curve.
    """
    loss, sums = Calibration(model, x_0, eps, context, mean_loss).explore([Gate(T, inclusive) for T in thresholds])
    return Walk(loss, {T: len(total.alpha) for T, total in zip(thresholds, sums, strict=True)},
                {T: layer_terms(model.unet, GRADIENT_TERMS, total.gradients)
                 for T, total in zip(thresholds, sums, strict=True)})


def layer_terms(unet: nn.Module, names: Sequence[str], gradients: Gradients | None = None) -> Terms:
    """The terms `names` of every scored layer, on the CPU, from `gradients` or else from what lies in `.grad`.

    A layer without gradient counts as zero.
    """
    layers = scored(unet)
    if gradients is None:
        gradients = {layer: module.weight.grad for layer, module in layers.items() if module.weight.grad is not None}
    with torch.no_grad():
        return {name: {layer: layer_term(name, module.weight, gradients.get(layer)) for layer, module in layers.items()}
                for name in names}


def layer_term(name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
    return reduce_term(name, weight, torch.zeros_like(weight) if gradient is None else gradient.to(weight.device)).cpu()
