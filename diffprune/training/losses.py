"""What a model in training is asked for: the noise, and the dense model's opinion where it has a teacher.

A loss is called with (student, noised images) and gives one number per image, in units of squared error summed over C, H, W.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from diffprune.diffusion.process import add_noise
from diffprune.models.dense import load_dense
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.errors import UserError

TAUGHT = 0.7        # the teacher's share in output distillation (PAPER)


@dataclass(frozen=True)
class Noised:
    """Some images of a step: `x_0`, `eps` [n, C, H, W], timesteps `t` [n], alpha_bar at them [n], `context` [n, 1, D]."""
    x_0: Tensor
    eps: Tensor
    t: Tensor
    alpha_bar: Tensor
    context: Tensor | None = None

    def predicted(self, model: DiffusionModel) -> Tensor:
        """The noise that `model` sees in the images at their timesteps, float32."""
        return model.denoise(add_noise(self.x_0, self.eps, self.alpha_bar), self.t, self.context).float()


Loss = Callable[[DiffusionModel, Noised], Tensor]


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Summed over everything but the first axis: [n, ...] -> [n]."""
    return (a - b).square().flatten(1).sum(1)


class NoisePrediction:
    """|eps - student|² (Ho et al. 2020, eq. 14, summed over the pixels)."""

    def __init__(self, cfg: DictConfig, student: nn.Module) -> None:
        pass

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        return squared_error(noised.predicted(student), noised.eps)


class OutputDistillation:
    """.7 |teacher - student|² + .3 |eps - student|², the teacher being the dense model."""

    def __init__(self, cfg: DictConfig, student: nn.Module) -> None:
        self.teacher = teacher_of(cfg, student)

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        with torch.no_grad():
            target = noised.predicted(self.teacher)
        predicted = noised.predicted(student)
        return TAUGHT * squared_error(predicted, target) + (1 - TAUGHT) * squared_error(predicted, noised.eps)


class FeatureDistillation:
    """|eps - student|² + D mean over blocks of |a(teacher) - a(student)|² of their outputs, D the numbers of one image.

    a(F) is the mean over channels of F², divided by its norm (Zagoruyko and Komodakis 2017, eq. 2): a map that needs no
    projection between different widths, with distances in 0 … 2. Blocks are the UNet's down, middle and up blocks.
    """

    def __init__(self, cfg: DictConfig, student: nn.Module) -> None:
        self.teacher, self.unet = teacher_of(cfg, student), student     # a loss is called with it wrapped

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        with torch.no_grad(), attention_maps(self.teacher.unet) as taught:
            noised.predicted(self.teacher)
        with attention_maps(self.unet) as learnt:
            error = squared_error(noised.predicted(student), noised.eps)
        apart = [squared_error(a, b) for a, b in zip(taught, learnt, strict=True)]
        return error + noised.eps[0].numel() * torch.stack(apart).mean(0)


@contextmanager
def attention_maps(unet: nn.Module) -> Iterator[list[Tensor]]:
    """Within `with`, the maps [n, H * W] of the blocks' outputs, in the order in which the blocks run."""
    maps: list[Tensor] = []

    def look(block: nn.Module, given: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        maps.append(attention_map(output if isinstance(output, Tensor) else output[0]))

    hooks = [block.register_forward_hook(look) for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def attention_map(features: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, H * W], of length 1."""
    return F.normalize(features.float().square().mean(1).flatten(1))


def teacher_of(cfg: DictConfig, student: nn.Module) -> DiffusionModel:
    """The dense model, in evaluation mode and without gradients, where the student is; UserError where there is none."""
    if cfg.model.checkpoint is None:
        raise UserError(f"schedule.loss={cfg.schedule.loss} learns from the dense model, and model.checkpoint=null has "
                        "random weights: give a trained model, or schedule.loss=noise")
    teacher = load_dense(cfg).to(next(student.parameters()).device)
    teacher.unet.requires_grad_(False)
    if cfg.schedule.loss == "features" and not hasattr(teacher.unet, "down_blocks"):
        raise UserError(f"schedule.loss=features compares a UNet's blocks, and model={cfg.model.name} has none: "
                        "give schedule.loss=distill")
    return teacher


LOSSES: dict[str, type] = {"noise": NoisePrediction, "distill": OutputDistillation, "features": FeatureDistillation}


def min_snr(alpha_bar: Tensor, gamma: float | None) -> Tensor | float:
    """min(SNR, gamma) / SNR per image: the weight of a noise prediction (Hang et al. 2023, eq. 5); 1 for gamma None."""
    if gamma is None:
        return 1.0
    return (gamma * (1 - alpha_bar) / alpha_bar).clamp(max=1)
