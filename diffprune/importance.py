"""How much the loss depends on every weight: one walk over the timesteps, reduced to terms per channel pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffprune.checkpoint import DiffusionModel
from diffprune.criteria import reduce_term
from diffprune.diffusion import add_noise
from diffprune.groups import SCORED
from diffprune.progress import progress

Terms = dict[str, dict[str, Tensor]]    # {term: {layer: [O, I] or [C]}}

GRADIENT_TERMS = ("wg", "wg2", "abs_wg")
IMAGES_PER_PASS = 128   # small calibration batches share a pass between several timesteps,
PIXELS_PER_PASS = 128 * 32 * 32     # as far as memory reaches: fewer of larger images


@dataclass(frozen=True)
class Walk:
    """`loss` [T]: L_t of every timestep. Per threshold how many timesteps' gradients were summed, and the sum's terms."""
    loss: Tensor
    kept: dict[float, int]
    terms: dict[float, Terms]


def gate(loss: Tensor, threshold: float) -> int:
    """How many timesteps come before the first t with L_t < T * max(L_0 … L_t); all of them where none is."""
    closed = loss < threshold * loss.cummax(0).values
    return int(closed.nonzero()[0]) if closed.any() else len(loss)


def walk(model: DiffusionModel, x_0: Tensor, eps: Tensor, thresholds: Sequence[float], mean_loss: bool = False,
         inclusive: bool = False, context: Tensor | None = None) -> Walk:
    """Sums grad L_t over t = 0, 1, … and keeps the terms of the sum each time a threshold's gate closes.

    `x_0`, `eps` [B, C, H, W] and the `context` [B, 1, D] of a class-conditional model are the same at every t. L_t is
    the squared error summed over C, H, W (`mean_loss`: their mean), mean over B. With `inclusive` the timestep at which
    a gate closes counts as well. Once every gate is closed the walk goes on without gradients, for the rest of the curve.
    """
    model.unet.eval().zero_grad()
    loss, kept, terms = torch.empty(0), {}, {}
    per_pass = max(1, min(IMAGES_PER_PASS, PIXELS_PER_PASS // x_0[0, 0].numel()) // len(x_0))
    chunks = torch.arange(len(model.alpha_bar)).split(per_pass)
    for timesteps in progress(chunks, "scoring", len(chunks)):
        first, open_gates = int(timesteps[0]), [T for T in thresholds if T not in kept]
        with torch.set_grad_enabled(bool(open_gates)):
            losses = timestep_losses(model, x_0, eps, timesteps, context) / (x_0[0].numel() if mean_loss else 1)
        loss = torch.cat([loss, losses.detach().float().cpu()])
        stops = sorted((gate(loss, T), T) for T in open_gates)
        ends = [min(stop + (inclusive and stop < len(loss)), len(loss)) for stop, _ in stops]
        done = 0
        for (stop, T), used in zip(stops, ends, strict=True):
            if used - first > done:     # the graph is kept only for a gate that closes later in the same pass
                losses[done:used - first].sum().backward(retain_graph=used < ends[-1])
                done = used - first
            if stop < len(loss) or stop == len(model.alpha_bar):
                kept[T], terms[T] = used, layer_terms(model.unet, GRADIENT_TERMS)
    return Walk(loss, kept, terms)


def timestep_losses(model: DiffusionModel, x_0: Tensor, eps: Tensor, timesteps: Tensor,
                    context: Tensor | None = None) -> Tensor:
    """L_t for each of `timesteps` [K], in one pass over K * B images."""
    t = timesteps.to(x_0.device).repeat_interleave(len(x_0))
    repeated = (len(timesteps), 1, 1, 1)
    noise = eps.repeat(repeated)
    given = None if context is None else context.repeat(len(timesteps), 1, 1)
    error = model.denoise(add_noise(x_0.repeat(repeated), noise, model.alpha_bar[t]), t, given).float() - noise
    return error.square().flatten(1).sum(1).view(len(timesteps), -1).mean(1)


def layer_terms(unet: nn.Module, names: Sequence[str]) -> Terms:
    """The terms `names` of every scored layer, on the CPU; a layer without gradient counts as zero."""
    layers = {layer: module for layer, module in unet.named_modules()
              if isinstance(module, SCORED) and module.weight is not None}
    with torch.no_grad():
        return {name: {layer: reduce_term(name, module.weight, gradient(module)).cpu()
                       for layer, module in layers.items()} for name in names}


def gradient(module: nn.Module) -> Tensor:
    return torch.zeros_like(module.weight) if module.weight.grad is None else module.weight.grad
