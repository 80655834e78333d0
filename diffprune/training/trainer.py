"""Training a noise predictor: the state, and one step of it, on one process or many."""

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from omegaconf import DictConfig
from torch import Tensor

from diffprune.diffusion.process import antithetic_timesteps
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import Ranks
from diffprune.runtime.errors import UserError
from diffprune.training import ema
from diffprune.training.dropout import set_dropout
from diffprune.training.learning_rate import learning_rate
from diffprune.training.losses import LOSSES, Noised, min_snr


class Training:
    """Everything that changes while a model trains. Randomness is no part of it: each step draws from (seed, place).

    `model` holds the plain network, which is saved and looked at; `student` the same one as Accelerate runs it.
    """

    def __init__(self, model: DiffusionModel, cfg: DictConfig, ranks: Ranks | None = None, before: int = 0) -> None:
        """A start at step 0: the average begins at the present weights. UserError where the batch cannot be split so.

        `before`: the steps of earlier rounds, whose draws this training does not repeat.
        """
        self.model, self.cfg, self.ranks, self.before = model, cfg, ranks or Ranks(), before
        check_split(cfg.schedule, self.ranks)
        self.masks = set_dropout(model.unet, cfg.schedule.dropout)
        self.loss = LOSSES[cfg.schedule.loss](cfg, model.unet)
        self.weights = list(model.unet.parameters())
        self.ema = [p.detach().clone() for p in self.weights]
        if model.device.type == "cpu":      # Python hears signals between its own instructions: a backward pass has none
            for p in self.weights:
                p.register_post_accumulate_grad_hook(lambda p: None)
        self.accelerator = accelerator_for(cfg, model.device, self.ranks)
        unet, self.optimiser = self.accelerator.prepare(model.unet, optimiser_for(self.weights, cfg.schedule))
        self.student = replace(model, unet=unet)
        self.alpha_bar, self.step = model.alpha_bar, 0
        self.last = torch.zeros((), device=model.device)            # this process's share of the last step's loss
        self.broken = torch.full((), -1, device=model.device)       # the first step whose loss was no number

    @property
    def place(self) -> int:
        """The present step, counted through all rounds."""
        return self.before + self.step

    def advance(self, images: Tensor, labels: Tensor | None) -> None:
        """One step on this process's `images` [n, C, H, W] of the step's batch."""
        self.update(self.gradients(images, labels))

    def gradients(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Leaves the step's gradients in the weights; gives the loss of these images, their share of the batch's mean.

        The state does not change: this can be left at any moment, and begins anew.
        """
        recipe, share = self.cfg.schedule, 0.0
        self.optimiser.zero_grad()
        for noised, last in self.pieces(images, labels):
            with nullcontext() if last else self.accelerator.no_sync(self.student.unet):
                with self.accelerator.autocast():
                    per_image = self.loss(self.student, noised) * min_snr(noised.alpha_bar, recipe.min_snr)
                    part = per_image.sum() / recipe.batch
                self.accelerator.backward(part * self.ranks.size)       # processes' gradients are averaged, not summed
            share = share + part.detach()
        return share

    def pieces(self, images: Tensor, labels: Tensor | None) -> Iterator[tuple[Noised, bool]]:
        """The micro-batches of a step, and whether each is the last.

        Timesteps and noise are drawn for the whole batch and dealt out by place: however many processes and micro-batches
        there are, an image meets the same. Transfers wait for no GPU.
        """
        recipe, device = self.cfg.schedule, self.model.device
        begin = self.ranks.rank * recipe.batch // self.ranks.size
        cuts = [i * len(images) // recipe.accumulate for i in range(recipe.accumulate + 1)]
        t, eps = draw(self.cfg.seed, self.place, recipe.batch, self.model.shape, len(self.alpha_bar))
        for low, high in pairwise(cuts):
            rows = slice(begin + low, begin + high)
            with self.accelerator.autocast():
                x_0 = self.model.to_latent(sent(images[low:high], device))
                context = self.model.context(None if labels is None else labels[low:high])
            self.masks.begin(self.cfg.seed, self.place, recipe.batch, rows)
            there = sent(t[rows], device)
            yield Noised(x_0, sent(eps[rows], device), there, self.alpha_bar[there], context), high == len(images)

    def update(self, share: Tensor) -> None:
        """The optimiser's step by the `gradients`, clipped to a total norm, then the average's; `share` is their loss."""
        recipe = self.cfg.schedule
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        if recipe.clip is not None:
            self.accelerator.clip_grad_norm_(self.weights, recipe.clip)
        self.optimiser.step()
        ema.follow(self.ema, self.weights, ema.decay(recipe, self.step))
        self.broken = torch.where((self.broken < 0) & ~torch.isfinite(share), self.step, self.broken)
        self.last, self.step = share, self.step + 1

    def mean_loss(self) -> float:
        """The last step's loss, mean over the whole batch; every process has to ask."""
        return float(self.accelerator.reduce(self.last, "sum"))

    def check(self) -> None:
        """Raises UserError, in every process, when the loss of a step so far was no number, with the first such step."""
        if (step := self.ranks.highest(int(self.broken))) >= 0:
            raise broken_at(step)

    def check_state(self) -> None:
        """Raises UserError when a weight, its average or what the optimiser keeps of it is no number."""
        sound = [tensor.isfinite().all().to(self.model.device) for tensor in self.tensors().values()]
        if not bool(torch.stack(sound).all()):
            raise broken_at(self.step - 1)

    def swap(self) -> None:
        """Exchanges the weights with their average, and back."""
        ema.swap(self.ema, self.weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `restore` goes on from, on the CPU; raises UserError as `check_state` does."""
        self.check_state()
        scaler = self.accelerator.scaler
        return ({name: tensor.cpu() for name, tensor in self.tensors().items()},
                {"step": self.step, "scaler": None if scaler is None else scaler.state_dict()})

    def tensors(self) -> dict[str, Tensor]:
        """The weights, their average and what the optimiser keeps of each."""
        tensors = {f"ema/{i}": tensor for i, tensor in enumerate(self.ema)}
        tensors |= {f"weight/{i}": p.detach() for i, p in enumerate(self.weights)}
        return tensors | {f"optimiser/{i}/{name}": tensor for i, entry in self.optimiser.state_dict()["state"].items()
                          for name, tensor in entry.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Goes on where `state` was taken, bit for bit."""
        entries: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, index, *name = key.split("/")
            if kind == "optimiser":
                entries.setdefault(int(index), {})[name[0]] = laid_out_like(self.weights[int(index)], tensor)
        for i, (p, average) in enumerate(zip(self.weights, self.ema, strict=True)):
            p.copy_(tensors[f"weight/{i}"])
            average.copy_(tensors[f"ema/{i}"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": entries})
        if about["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(about["scaler"])
        self.step = about["step"]


def laid_out_like(weight: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` as `weight` lies in memory, which a fused optimiser takes for granted; a number, its step, as it is."""
    return torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor


def draw(seed: int, step: int, size: int, shape: tuple[int, ...], total: int) -> tuple[Tensor, Tensor]:
    """Antithetic timesteps [size] below `total` and noise [size, *shape] of the whole batch of `step`, on the CPU."""
    rng = generator(seed, Stream.TRAINING, step)
    return antithetic_timesteps(size, total, rng), torch.randn((size, *shape), generator=rng)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU from pinned memory, so that nothing waits for what the GPU is still doing."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def accelerator_for(cfg: DictConfig, device: torch.device, ranks: Ranks) -> Accelerator:
    """Accelerate on this process's `device`, with the precision asked for, and all processes of the run connected."""
    if ranks.size > 1:
        ranks.wait()        # connects them
        # Else Accelerate takes the local rank for the GPU's number, which is 0 where Slurm shows each process its own alone.
        os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)     # it is one for the process: runs of a sweep have their own
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=cfg.precision,
                       gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1))


def optimiser_for(weights: list[Tensor], recipe: DictConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW where weights decay; fused into few kernels where PyTorch can."""
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    return kind(weights, lr=recipe.lr, betas=tuple(recipe.betas), eps=recipe.eps, weight_decay=recipe.weight_decay,
                fused=True if weights[0].device.type in ("cpu", "cuda") else None)


def check_split(recipe: DictConfig, ranks: Ranks) -> None:
    """UserError where a process or a micro-batch would get no image."""
    if recipe.batch // ranks.size < recipe.accumulate:
        raise UserError(f"schedule.batch={recipe.batch} is too small for {ranks.size} processes with "
                        f"schedule.accumulate={recipe.accumulate} micro-batches each: lower schedule.accumulate, or start "
                        f"at most {math.floor(recipe.batch / recipe.accumulate)} processes")


def broken_at(step: int) -> UserError:
    return UserError(f"the loss or a weight is no number any more at step {step}; the state before it is kept: lower "
                     "schedule.lr or use precision=no, then repeat")
