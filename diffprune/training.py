"""Training a noise predictor: the state, and one step of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffprune.checkpoint import DiffusionModel
from diffprune.diffusion import Stream, add_noise, antithetic_timesteps, generator
from diffprune.errors import UserError
from diffprune.files import appearing


@dataclass
class Training:
    """Everything that changes while a model trains. Randomness is no part of it: each step draws from (seed, step)."""
    unet: nn.Module
    ema: list[Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0

    @classmethod
    def of(cls, unet: nn.Module, cfg: DictConfig) -> "Training":
        """A start at step 0: the average begins at the present weights."""
        recipe, parameters = cfg.schedule, list(unet.parameters())
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        optimiser = kind(parameters, lr=recipe.lr, betas=tuple(recipe.betas), eps=recipe.eps,
                         weight_decay=recipe.weight_decay)
        scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=cfg.precision == "fp16")
        return cls(unet, [p.detach().clone() for p in parameters], optimiser, scaler)

    def save(self, path: Path) -> None:
        """Writes the state by rename, as safetensors."""
        tensors = {f"ema/{i}": tensor for i, tensor in enumerate(self.ema)}
        tensors |= {f"weight/{i}": p.detach() for i, p in enumerate(self.unet.parameters())}
        tensors |= {f"optimiser/{i}/{name}": tensor for i, entry in self.optimiser.state_dict()["state"].items()
                    for name, tensor in entry.items()}
        with appearing(path) as partial:
            save_file(tensors, partial, metadata={"step": str(self.step), "scaler": json.dumps(self.scaler.state_dict())})

    def restore(self, path: Path) -> None:
        """Goes on where `save` stopped, bit for bit."""
        with safe_open(path, "pt") as file, torch.no_grad():
            entries: dict[int, dict[str, Tensor]] = {}
            for key in file.keys():     # noqa: SIM118  (a safetensors handle is no mapping)
                kind, index, *name = key.split("/")
                if kind == "optimiser":
                    entries.setdefault(int(index), {})[name[0]] = file.get_tensor(key).clone()
            for i, (p, average) in enumerate(zip(self.unet.parameters(), self.ema, strict=True)):
                p.copy_(file.get_tensor(f"weight/{i}"))
                average.copy_(file.get_tensor(f"ema/{i}"))
            about = file.metadata()
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": entries})
        self.scaler.load_state_dict(json.loads(about["scaler"]))
        self.step = int(about["step"])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights with their average; twice is once too many or none."""
        for p, average in zip(self.unet.parameters(), self.ema, strict=True):
            kept = p.detach().clone()
            p.copy_(average)
            average.copy_(kept)


def noise_prediction_loss(model: DiffusionModel, x_0: Tensor, seed: int, step: int,
                          context: Tensor | None = None) -> Tensor:
    """Squared error of the predicted noise, summed over C, H, W, mean over the batch, at antithetic timesteps.

    `x_0` [B, C, H, W] is clean; `context` [B, 1, D] belongs to a class-conditional model. Timesteps, noise and dropout
    come from (seed, step): whatever happened before, a step draws the same.
    """
    rng = generator(seed, Stream.TRAINING, step)
    t = antithetic_timesteps(len(x_0), len(model.alpha_bar), rng).to(x_0.device)
    eps = torch.randn(x_0.shape, generator=rng).to(x_0.device)
    torch.manual_seed(generator(seed, Stream.DROPOUT, step).initial_seed())
    predicted = model.denoise(add_noise(x_0, eps, model.alpha_bar[t]), t, context)
    return (predicted.float() - eps).square().flatten(1).sum(1).mean()


def update(training: Training, loss: Tensor, recipe: DictConfig) -> None:
    """One optimiser step with clipping (total norm), then the moving average: ema <- d ema + (1 - d) weight."""
    training.optimiser.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    if recipe.clip is not None:
        training.scaler.unscale_(training.optimiser)
        nn.utils.clip_grad_norm_(training.unet.parameters(), recipe.clip)
    training.scaler.step(training.optimiser)
    training.scaler.update()
    with torch.no_grad():
        torch._foreach_lerp_(training.ema, list(training.unet.parameters()), 1 - recipe.ema)


def finite(loss: Tensor, step: int) -> float:
    """The loss as a number; raises UserError when it is none, so that no run trains on in silence."""
    value = float(loss)
    if value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"the loss is {value} at step {step}: lower schedule.lr or use precision=no, then repeat")
    return value


def set_dropout(unet: nn.Module, probability: float) -> None:
    """Dropout inside the residual blocks, where the original models have it, and nowhere else."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = probability
