"""Sums of gradients over timesteps, each of which any longer sum that begins like it can be continued from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffprune.diffusion.process import add_noise
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.dependency import SCORED
from diffprune.pruning.timesteps import Policy
from diffprune.runtime.progress import progress

Gradients = dict[str, Tensor]       # {layer: gradient of its weight}, float32; a layer without gradient is left out

IMAGES_PER_PASS = 128   # small calibration batches share a pass between several timesteps,
PIXELS_PER_PASS = 128 * 32 * 32     # as far as memory reaches: fewer of larger images


@dataclass(frozen=True)
class GradientSum:
    """sum_t alpha_t grad L_t on the CPU; `alpha` [n] ends with the last timestep that counts."""
    alpha: Tensor
    gradients: Gradients

    def begins(self, alpha: Tensor) -> bool:
        """Whether a sum with weights `alpha` [m] begins with this one."""
        return len(self.alpha) <= len(alpha) and torch.equal(self.alpha, alpha[:len(self.alpha)])


NOTHING = GradientSum(torch.empty(0), {})


def trimmed(alpha: Tensor) -> Tensor:
    """`alpha` up to the last timestep that counts."""
    counted = alpha.nonzero()
    return alpha[:int(counted[-1]) + 1 if len(counted) else 0]


class Calibration:
    """A model with one fixed batch `x_0` and noise `eps` [B, C, H, W], the same at every t, and its classes' `context`.

    L_t is the squared error summed over C, H, W (`mean_loss`: their mean), mean over B. `per_pass` timesteps share a
    pass, always the same ones, so that what is summed depends on alpha alone and not on where a sum was continued from.
    """

    def __init__(self, model: DiffusionModel, x_0: Tensor, eps: Tensor, context: Tensor | None = None,
                 mean_loss: bool = False, per_pass: int | None = None) -> None:
        self.model, self.x_0, self.eps, self.context = model, x_0, eps, context
        self.divisor = x_0[0].numel() if mean_loss else 1
        fitting = min(IMAGES_PER_PASS, PIXELS_PER_PASS // x_0[0, 0].numel()) // len(x_0)
        self.per_pass = per_pass or max(1, fitting)
        self.timesteps = len(model.alpha_bar)
        model.unet.eval().requires_grad_(True)

    def explore(self, policies: Sequence[Policy],
                keep: Callable[[GradientSum], None] | None = None) -> tuple[Tensor, list[GradientSum]]:
        """L_t [T] and each policy's sum, in one walk over all timesteps; once all policies are over, without gradients.

        The `policies` must agree on every timestep until one is over: gates with several thresholds do. With `keep` every
        sum, which is as large as the model, is handed to it once it is complete, and none is held or returned.
        """
        loss, sums, passes = torch.empty(0), [NOTHING] * len(policies), self.passes()
        live = list(range(len(policies)))
        self.restore({})
        for timesteps in progress(passes, "scoring", len(passes)):
            with torch.set_grad_enabled(bool(live)):
                losses = self.losses(timesteps)
            loss = torch.cat([loss, losses.detach().float().cpu()])
            ending = [i for i in live if policies[i].over(loss) or len(loss) == self.timesteps]
            live = [i for i in live if i not in ending]
            for i, total in zip(ending, self.branches(losses, loss, [policies[i] for i in ending], bool(live)), strict=True):
                if keep is None:
                    sums[i] = total
                else:
                    keep(total)
            if live:
                self.add(losses, policies[live[0]].weights(loss)[-len(losses):])
        return loss, sums if keep is None else []

    def branches(self, losses: Tensor, loss: Tensor, ending: Sequence[Policy], goes_on: bool) -> list[GradientSum]:
        """The sums that end within the present pass; where the walk goes on, gradients are left as they were before it."""
        asked = [trimmed(policy.weights(loss)) for policy in ending]
        distinct = list({tuple(alpha.tolist()): alpha for alpha in asked}.values())
        begun = len(loss) - len(losses)
        rows = [nn.functional.pad(alpha[begun:], (0, len(loss) - max(len(alpha), begun))) for alpha in distinct]
        before = self.snapshot() if any(row.any() for row in rows) and (goes_on or len(rows) > 1) else {}
        sums = []
        for number, (alpha, row) in enumerate(zip(distinct, rows, strict=True)):
            self.add(losses, row, retain_graph=goes_on or any(later.any() for later in rows[number + 1:]))
            sums.append(GradientSum(alpha, self.snapshot()))
            if row.any() and (goes_on or number + 1 < len(rows)):
                self.restore(before)
        return [next(total for total in sums if torch.equal(total.alpha, alpha)) for alpha in asked]

    def accumulate(self, alpha: Tensor, start: GradientSum = NOTHING) -> GradientSum:
        """The sum with weights `alpha` [n]; walks what `start` lacks of it.

        Raises ValueError where it cannot be continued from `start` (`continues` tells).
        """
        alpha = trimmed(alpha)
        if not self.continues(alpha, start):
            raise ValueError(f"a sum over {len(alpha)} timesteps does not go on from one over {len(start.alpha)}, in passes "
                             f"of {self.per_pass}")
        self.restore(start.gradients)
        passes = [t for t in self.passes() if len(start.alpha) <= int(t[0]) < len(alpha) and alpha[t[0]:t[-1] + 1].any()]
        for timesteps in progress(passes, "scoring", len(passes)):
            row = alpha[timesteps[0]:timesteps[-1] + 1]
            self.add(self.losses(timesteps), nn.functional.pad(row, (0, len(timesteps) - len(row))))
        return GradientSum(alpha, self.snapshot())

    def continues(self, alpha: Tensor, start: GradientSum) -> bool:
        """Whether the sum with weights `alpha` can be continued from `start`: it begins so, up to the end of a pass."""
        return start.begins(alpha) and len(start.alpha) % self.per_pass == 0

    def passes(self) -> Sequence[Tensor]:
        return torch.arange(self.timesteps).split(self.per_pass)

    def losses(self, timesteps: Tensor) -> Tensor:
        """L_t of `timesteps` [K], in one pass."""
        return timestep_losses(self.model, self.x_0, self.eps, timesteps, self.context) / self.divisor

    def add(self, losses: Tensor, row: Tensor, retain_graph: bool = False) -> None:
        """Adds the gradient of the `losses` [K], weighted by `row` [K]."""
        if row.any():
            (losses * row.to(losses.device)).sum().backward(retain_graph=retain_graph)

    def snapshot(self) -> Gradients:
        """A copy of the gradients as they are now, on the CPU."""
        return {name: module.weight.grad.detach().to("cpu", torch.float32, copy=True)
                for name, module in scored(self.model.unet).items() if module.weight.grad is not None}

    def restore(self, gradients: Gradients) -> None:
        """Puts the gradients to those given, or to none."""
        self.model.unet.zero_grad()
        for name, module in scored(self.model.unet).items():
            if name in gradients:
                module.weight.grad = gradients[name].to(module.weight, copy=True)


def scored(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights are scored."""
    return {name: module for name, module in unet.named_modules()
            if isinstance(module, SCORED) and module.weight is not None}


def timestep_losses(model: DiffusionModel, x_0: Tensor, eps: Tensor, timesteps: Tensor,
                    context: Tensor | None = None) -> Tensor:
    """L_t for each of `timesteps` [K], in one pass over K * B images."""
    t = timesteps.to(x_0.device).repeat_interleave(len(x_0))
    repeated = (len(timesteps), 1, 1, 1)
    noise = eps.repeat(repeated)
    given = None if context is None else context.repeat(len(timesteps), 1, 1)
    error = model.denoise(add_noise(x_0.repeat(repeated), noise, model.alpha_bar[t]), t, given).float() - noise
    return error.square().flatten(1).sum(1).view(len(timesteps), -1).mean(1)
