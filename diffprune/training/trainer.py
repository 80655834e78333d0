"""Training a noise predictor: the state, and one step of it, on one rank or many."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from diffprune.diffusion.process import antithetic_timesteps
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import Ranks
from diffprune.runtime.errors import UserError
from diffprune.training import ema
from diffprune.training.dropout import set_dropout
from diffprune.training.losses import Noised, Objective
from diffprune.training.recipe import Recipe

log = logging.getLogger(__name__)


class Trainer:
    """Everything that changes while `model` trains by `recipe`; randomness does not: it follows from `seed` and global step.

    `execution`: where the model runs (default: where it is, in float32). `ranks`: the processes that train together. The
    `previous_steps` of earlier rounds count into the global step. `teacher`: the dense model, for terms that need it;
    `kept`: for each of its blocks the output channels that are the model's (see Objective).
    `student` is the model as it is trained: its network is compiled where `execution` says so and the objective lets it, and
    on several ranks wrapped in DistributedDataParallel.
    """

    def __init__(self, model: DiffusionModel, recipe: Recipe, execution: Execution | None = None, seed: int = 0,
                 ranks: Ranks | None = None, previous_steps: int = 0, teacher: DiffusionModel | None = None,
                 kept: Sequence[Tensor] | None = None) -> None:
        """Starts at step 0, the weights as their average; UserError where a rank or a micro-batch would get no image."""
        self.recipe, self.seed, self.previous_steps, self.ranks = recipe, seed, previous_steps, ranks or Ranks()
        check_batch(recipe, self.ranks.world_size)
        if recipe.warms_up_average and self.ranks.is_rank0:
            log.warning("schedule.ema=%g over %d steps would leave %.0f %% of the pruned weights in the average: its decay "
                        "rises to it as (1 + step) / (10 + step)", recipe.ema, recipe.steps, 100 * recipe.ema**recipe.steps)
        self.execution = execution or Execution(model.device)
        self.model = self.execution.place(model)
        self.device = model.device      # with the number of the GPU
        if self.device.type == "cuda":      # else pinned memory and NCCL open a context on the first GPU too
            torch.cuda.set_device(self.device)
        self.masks = set_dropout(model.unet, recipe.dropout)
        self.objective = Objective(recipe.objective, None if teacher is None else teacher.to(self.device), kept,
                                   self.execution.approximate.autocast)
        self.weights: list[Tensor] = list(model.unet.parameters())
        self.ema = [p.detach().clone() for p in self.weights]
        if self.device.type == "cpu":       # a backward pass without a Python hook would not let Python handle signals
            for p in self.weights:
                p.register_post_accumulate_grad_hook(lambda p: None)
        self.ranks.barrier()        # connects them
        network = self.execution.compiled(model.unet, trains=True) if self.objective.can_be_compiled else model.unet
        self.student = replace(model, unet=DistributedDataParallel(network) if self.ranks.world_size > 1 else network)
        # Adam, or AdamW where weights decay; fused into few kernels where PyTorch can.
        self.optimiser = (torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam)(
            self.weights, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay,
            fused=True if self.device.type in ("cpu", "cuda") else None)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.execution.precision == "fp16")
        self.process, self.step = model.process, 0
        self.last_loss = torch.zeros((), device=self.device)            # this rank's part of the last step's mean loss
        self.first_bad_step = torch.full((), -1, device=self.device)    # the first whose loss was NaN or infinite, else -1

    global_step = property(lambda self: self.previous_steps + self.step)     # counted through all rounds

    def advance(self, images: Tensor, labels: Tensor | None) -> None:
        """One step on this rank's `images` [n, C, H, W] of the step's batch, and their `labels` [n] if they have classes."""
        self.update(self.gradients(images, labels))

    def gradients(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Leaves the step's gradients in the weights; returns the loss of these images, their part of the batch's mean. The
        state does not change: this can be interrupted at any moment, and repeated."""
        self.student.unet.train()
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.device)
        for noised, is_last in self.micro_batches(images, labels):
            # Ranks exchange gradients in the backward pass of the last micro-batch only.
            network = self.student.unet
            with network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last else nullcontext():
                with self.execution.autocast():
                    weight = self.process.min_snr(noised.t, self.recipe.min_snr)
                    per_image = self.objective(self.student, noised) * weight
                    loss = per_image.sum() / self.recipe.batch
                # DistributedDataParallel averages over ranks, where a sum is wanted.
                with self.execution.rounding():
                    self.scaler.scale(loss * self.ranks.world_size).backward()
            total = total + loss.detach()
        return total

    def micro_batches(self, images: Tensor, labels: Tensor | None) -> Iterator[tuple[Noised, bool]]:
        """The micro-batches of a step, and whether each is the last.

        Timesteps and noise are drawn for the whole batch, and each image takes those of its place in it: they do not depend
        on the number of ranks and micro-batches. Transfers do not wait for the GPU.
        """
        size, device = self.recipe.batch, self.device
        first_row = self.ranks.rank * size // self.ranks.world_size
        cuts = [i * len(images) // self.recipe.accumulate for i in range(self.recipe.accumulate + 1)]
        left_out = left_out_of(self.seed, self.global_step, size, self.recipe.unconditional)
        all_t, eps = draw(self.seed, self.global_step, size, self.model.shape, self.process.timesteps)
        along = directions(self.seed, self.global_step, size, self.model.shape) if self.objective.needs_direction else None
        for low, high in pairwise(cuts):
            rows = slice(first_row + low, first_row + high)
            with self.execution.autocast():
                x_0 = self.model.to_latent(to_device(images[low:high], device))
                context = self.model.context(None if labels is None else labels[low:high],
                                             None if left_out is None else left_out[rows])
            self.masks.begin(self.seed, self.global_step, size, rows)
            t = to_device(all_t[rows], device)
            direction = None if along is None else to_device(along[rows], device)
            yield Noised(x_0, to_device(eps[rows], device), t, self.process, context, direction), high == len(images)

    def update(self, loss: Tensor) -> None:
        """The optimiser's step by the `gradients`, whose `loss` is given, and the step of the average."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimiser)
            clip_grad_norm_(self.weights, self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        ema.follow(self.ema, self.weights, self.recipe.ema_decay(self.step))
        self.first_bad_step = torch.where((self.first_bad_step < 0) & ~loss.isfinite(), self.step, self.first_bad_step)
        self.last_loss, self.step = loss, self.step + 1

    def mean_loss(self) -> float:
        """The last step's loss, mean over the whole batch; every rank has to call this."""
        return float(self.ranks.all_reduce_sum(self.last_loss))

    def check(self) -> None:
        """Raises UserError, in every rank, with the first step whose loss was NaN or infinite, if there was one."""
        if (step := self.ranks.all_reduce_max(int(self.first_bad_step))) >= 0:
            raise not_finite(step)

    def check_state(self) -> None:
        """Raises UserError when a weight, its average or a number of the optimiser's is NaN or infinite."""
        finite = [tensor.isfinite().all().to(self.device) for tensor in self.tensors().values()]
        if not bool(torch.stack(finite).all()):
            raise not_finite(self.step - 1)

    def swap(self) -> None:
        """Exchanges the weights with their average, and back."""
        ema.swap(self.ema, self.weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `restore` goes on from: tensors on the CPU, and numbers; raises UserError as `check_state` does."""
        self.check_state()
        tensors = {name: tensor.cpu() for name, tensor in self.tensors().items()}
        return tensors, {"step": self.step, "scaler": self.scaler.state_dict()}

    def tensors(self) -> dict[str, Tensor]:
        """The weights, their average and what the optimiser keeps of each."""
        tensors = {f"ema/{i}": tensor for i, tensor in enumerate(self.ema)}
        tensors |= {f"weight/{i}": p.detach() for i, p in enumerate(self.weights)}
        return tensors | {f"optimiser/{i}/{name}": tensor for i, entry in self.optimiser.state_dict()["state"].items()
                          for name, tensor in entry.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `state` was taken, bit for bit."""
        entries: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, index, *name = key.split("/")
            if kind == "optimiser":     # in the weight's memory layout, as fused optimisers need it, but for single numbers
                weight = self.weights[int(index)]
                value = torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
                entries.setdefault(int(index), {})[name[0]] = value
        for i, (p, average) in enumerate(zip(self.weights, self.ema, strict=True)):
            p.copy_(tensors[f"weight/{i}"])
            average.copy_(tensors[f"ema/{i}"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": entries})
        self.scaler.load_state_dict(numbers["scaler"])
        self.step = numbers["step"]


def draw(seed: int, step: int, size: int, shape: tuple[int, ...], total: int) -> tuple[Tensor, Tensor]:
    """Antithetic timesteps [size] below `total` and noise [size, *shape] of the whole batch of `step`, on the CPU."""
    rng = generator(seed, Stream.TRAINING, step)
    return antithetic_timesteps(size, total, rng), torch.randn((size, *shape), generator=rng)


def directions(seed: int, step: int, size: int, shape: tuple[int, ...]) -> Tensor:
    """Random vectors of length 1, one for each image of the whole batch of `step`, [size, *shape] on the CPU."""
    drawn = torch.randn((size, *shape), generator=generator(seed, Stream.DIRECTION, step))
    return normalize(drawn.flatten(1)).view_as(drawn)


def left_out_of(seed: int, step: int, size: int, probability: float) -> Tensor | None:
    """Which images of the whole batch of `step` are shown without their class or caption, bool [size]; None for none."""
    return torch.rand(size, generator=generator(seed, Stream.CONDITION, step)) < probability if probability else None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU from pinned memory, so that nothing waits for the work it has."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def check_batch(recipe: Recipe, world_size: int) -> None:
    """UserError where a rank or a micro-batch would get no image."""
    if recipe.batch // world_size < recipe.accumulate:
        raise UserError(f"schedule.batch={recipe.batch} is too small for {world_size} processes with "
                        f"schedule.accumulate={recipe.accumulate} micro-batches each: lower schedule.accumulate, or start "
                        f"at most {recipe.batch // recipe.accumulate} processes")


def not_finite(step: int) -> UserError:
    return UserError(f"the loss or a weight is NaN or infinite at step {step}; the state before it is kept: lower "
                     "schedule.lr or use precision=fp32, then repeat")
