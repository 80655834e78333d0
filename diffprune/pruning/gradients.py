"""The scoring pass: one pass over the timesteps that sums the gradients of the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.dependency import scored_weights
from diffprune.pruning.timesteps import Policy
from diffprune.runtime.errors import UserError
from diffprune.runtime.progress import progress

Gradients = dict[str, Tensor]       # {layer: gradient of its weight}, float32; layers without gradient are left out

IMAGES_PER_EVALUATION = 128                     # small calibration batches are evaluated at several timesteps at once,
PIXELS_PER_EVALUATION = 128 * 32 * 32           # at fewer for larger images, whose activations need more memory


@dataclass(frozen=True)
class CalibrationBatch:
    """What a model is scored on, the same at every timestep: images or latents `x_0` and noise `eps`, [B, C, H, W]. A
    conditional model also takes a `context` [B, L, D]."""
    x_0: Tensor
    eps: Tensor
    context: Tensor | None = None

    @classmethod
    def with_noise(cls, x_0: Tensor, seed: int, context: Tensor | None = None) -> "CalibrationBatch":
        """The batch with noise drawn from `seed` on the CPU, the same on every device."""
        return cls(x_0, torch.randn(x_0.shape, generator=generator(seed, Stream.CALIBRATION)), context)

    def to(self, device: torch.device) -> "CalibrationBatch":
        context = None if self.context is None else self.context.to(device)
        return CalibrationBatch(self.x_0.to(device), self.eps.to(device), context)


@dataclass(frozen=True)
class GradientSum:
    """sum_t alpha_t grad L_t on the CPU; `alpha` [n] ends with the last timestep that counts."""
    alpha: Tensor
    gradients: Gradients


EMPTY = GradientSum(torch.empty(0), {})


def begins_with(alpha: Tensor, start: Tensor) -> bool:
    """Whether a sum with weights `alpha` [m] begins with the sum with weights `start` [n]."""
    return len(start) <= len(alpha) and torch.equal(start, alpha[:len(start)])


def trimmed(alpha: Tensor) -> Tensor:
    """`alpha` up to the last timestep that counts."""
    counted = alpha.nonzero()
    return alpha[:int(counted[-1]) + 1 if len(counted) else 0]


class ScoringPass:
    """Sums gradients of `model` on a calibration batch over its timesteps.

    L_t is the squared error of what the network was trained to predict, summed over C, H, W (averaged with `mean_loss`) and
    averaged over the batch. The network is evaluated at `per_evaluation` timesteps at once, always at the same ones, so that
    a sum depends on its weights alone and not on where it was continued from. By default these are as many as the memory of
    128 images of 32x32 pixels allows.
    """

    def __init__(self, model: DiffusionModel, batch: CalibrationBatch, mean_loss: bool = False,
                 per_evaluation: int | None = None) -> None:
        self.model, self.batch = model, batch
        self.divisor = batch.x_0[0].numel() if mean_loss else 1
        fitting = min(IMAGES_PER_EVALUATION, PIXELS_PER_EVALUATION // batch.x_0[0, 0].numel()) // len(batch.x_0)
        self.per_evaluation = per_evaluation or max(1, fitting)
        self.slices = torch.arange(model.process.timesteps).split(self.per_evaluation)     # timesteps evaluated at once
        model.unet.eval().requires_grad_(True)

    def sum(self, policy: Policy) -> tuple[Tensor, GradientSum]:
        """L_t [T] of every timestep, and the sum whose weights the `policy` gives."""
        if policy.needs_all_losses:
            loss = self.run([], lambda total: None)
            return loss, self.accumulate(policy.weights(loss))
        sums: list[GradientSum] = []
        return self.run([policy], sums.append), sums[0]

    def run(self, policies: Sequence[Policy], keep: Callable[[GradientSum], None]) -> Tensor:
        """Evaluates every timestep once, hands each policy's sum to `keep` when it is complete, and returns L_t [T].

        The policies must agree on every timestep until one is finished, as thresholds do, and must not need all losses.
        Once all are finished no gradients are computed, and none is left in the model. A sum is as large as the model:
        beside the gradients in the model none is held here, but while one is kept before the last is complete.
        """
        loss, pending = torch.empty(0), list(policies)
        self.restore({})
        for timesteps in progress(self.slices, "scoring", len(self.slices)):
            with torch.set_grad_enabled(bool(pending)):
                losses = self.losses(timesteps)
            loss = torch.cat([loss, losses.detach().float().cpu()])
            if not loss.isfinite().all():
                raise UserError(f"the loss at timestep {int(loss.isfinite().long().argmin())} is NaN or infinite: give "
                                "precision=fp32, or a model that can be evaluated there")
            finished = [policy for policy in pending if policy.finished(loss) or timesteps is self.slices[-1]]
            pending = [policy for policy in pending if policy not in finished]
            # A sum that ends among these losses is made from the gradients before them, which are then put back.
            unchanged = self.snapshot() if len(finished) > 1 or (finished and pending) else {}
            for number, policy in enumerate(finished, 1):
                alpha, is_last = trimmed(policy.weights(loss)), number == len(finished) and not pending
                self.add(losses, alpha[len(loss) - len(losses):], retain_graph=not is_last)
                keep(GradientSum(alpha, self.snapshot(moved=is_last)))
                self.restore({} if is_last else unchanged)
            if pending:
                self.add(losses, pending[0].weights(loss)[-len(losses):])
        return loss

    def accumulate(self, alpha: Tensor, start: GradientSum = EMPTY) -> GradientSum:
        """The sum with weights `alpha` [n], continued from the sum `start`. Raises ValueError if it cannot be continued from
        there (see `can_continue`)."""
        alpha = trimmed(alpha)
        if not self.can_continue(start.alpha, alpha):
            raise ValueError(f"a sum over {len(alpha)} timesteps cannot be continued from one over {len(start.alpha)} with "
                             f"{self.per_evaluation} timesteps per evaluation")
        self.restore(start.gradients)
        slices = [t for t in self.slices if len(start.alpha) <= int(t[0]) < len(alpha) and alpha[t[0]:t[-1] + 1].any()]
        for timesteps in progress(slices, "scoring", len(slices)):
            self.add(self.losses(timesteps), alpha[timesteps[0]:timesteps[-1] + 1])
        return GradientSum(alpha, self.snapshot())

    def can_continue(self, start: Tensor, alpha: Tensor) -> bool:
        """Whether the sum with weights `alpha` begins with that of the weights `start`, where an evaluation ends."""
        return begins_with(alpha, start) and len(start) % self.per_evaluation == 0

    def losses(self, timesteps: Tensor) -> Tensor:
        """L_t of `timesteps` [K], by one evaluation of the network on K * B images."""
        x_0, eps, context = self.batch.x_0, self.batch.eps, self.batch.context
        t = timesteps.to(x_0.device).repeat_interleave(len(x_0))
        x_0, eps = (images.repeat(len(timesteps), 1, 1, 1) for images in (x_0, eps))
        context = None if context is None else context.repeat(len(timesteps), *[1] * (context.dim() - 1))
        process = self.model.process
        error = self.model.predict(process.add_noise(x_0, eps, t), t, context).float() - process.target(x_0, eps, t)
        return error.square().flatten(1).sum(1).view(len(timesteps), -1).mean(1) / self.divisor

    def add(self, losses: Tensor, row: Tensor, retain_graph: bool = False) -> None:
        """Adds the gradient of the `losses` [K], the first of them weighted by `row`, to those that lie in the model."""
        if row.any():
            row = nn.functional.pad(row, (0, len(losses) - len(row)))
            (losses * row.to(losses.device)).sum().backward(retain_graph=retain_graph)

    def snapshot(self, moved: bool = False) -> Gradients:
        """A copy on the CPU of the gradients that lie in the model, or these themselves, `moved` out of it."""
        gradients = {}
        for layer, weight in scored_weights(self.model.unet).items():
            if weight.grad is not None:
                gradients[layer] = weight.grad.to("cpu", torch.float32, copy=not moved)
                weight.grad = None if moved else weight.grad
        return gradients

    def restore(self, gradients: Gradients) -> None:
        """Replaces the gradients that lie in the model."""
        self.model.unet.zero_grad()
        for name, weight in scored_weights(self.model.unet).items():
            if name in gradients:
                weight.grad = gradients[name].to(weight, copy=True)
