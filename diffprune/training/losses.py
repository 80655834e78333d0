"""What a model in training is compared with: the noise, and the dense model's predictions where it has a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffprune.diffusion.process import add_noise
from diffprune.models.diffusion_model import DiffusionModel

TEACHER_WEIGHT = 0.7        # of the teacher's prediction in output distillation (PAPER)


@dataclass(frozen=True)
class Noised:
    """Images of a step: `x_0`, `eps` [n, C, H, W], timesteps `t` [n], alpha_bar at them [n], `context` [n, 1, D] or None."""
    x_0: Tensor
    eps: Tensor
    t: Tensor
    alpha_bar: Tensor
    context: Tensor | None = None

    def predicted(self, model: DiffusionModel) -> Tensor:
        """The noise that `model` predicts in the images at their timesteps, float32 [n, C, H, W]."""
        return model.denoise(add_noise(self.x_0, self.eps, self.alpha_bar), self.t, self.context).float()


class Loss(ABC):
    """A training objective: called with the student and some noised images, it gives one number per image [n]. Its unit is
    squared error summed over C, H, W. Where it `needs_teacher`, that is the dense model on the student's device. Where it
    `needs_blocks`, both networks are UNets with down, middle and up blocks."""
    needs_teacher: ClassVar[bool] = False
    needs_blocks: ClassVar[bool] = False

    def __init__(self, teacher: DiffusionModel | None = None) -> None:
        """Puts the `teacher` into evaluation mode without gradients; ValueError where there is none and one is needed."""
        if teacher is not None:
            teacher.unet.eval().requires_grad_(False)
        elif self.needs_teacher:
            raise ValueError(f"{type(self).__name__} needs a teacher: give the dense model")
        self.teacher = teacher

    @abstractmethod
    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor: ...


class NoisePrediction(Loss):
    """|eps - student|² (Ho et al. 2020, eq. 14, summed over the pixels)."""

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        return squared_error(noised.predicted(student), noised.eps)


class Distillation(Loss):
    """A training objective with a teacher."""
    needs_teacher = True
    teacher: DiffusionModel


class OutputDistillation(Distillation):
    """.7 |teacher - student|² + .3 |eps - student|²."""

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        with torch.no_grad():
            target = noised.predicted(self.teacher)
        predicted = noised.predicted(student)
        to_teacher, to_noise = squared_error(predicted, target), squared_error(predicted, noised.eps)
        return TEACHER_WEIGHT * to_teacher + (1 - TEACHER_WEIGHT) * to_noise


class FeatureDistillation(Distillation):
    """|eps - student|² + D mean over blocks of |a(teacher) - a(student)|² of their outputs, D the numbers of one image.

    a(F) is the mean over channels of F², divided by its norm (Zagoruyko and Komodakis 2017, eq. 2): a map that needs no
    projection between different widths, with distances in 0 … 2. Blocks are the UNet's down, middle and up blocks.
    """
    needs_blocks = True

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        with torch.no_grad(), attention_maps(self.teacher.unet) as teacher_maps:
            noised.predicted(self.teacher)
        with attention_maps(student.unet) as student_maps:
            error = squared_error(noised.predicted(student), noised.eps)
        distances = [squared_error(a, b) for a, b in zip(teacher_maps, student_maps, strict=True)]
        return error + noised.eps[0].numel() * torch.stack(distances).mean(0)


LOSSES: dict[str, type[Loss]] = {"noise": NoisePrediction, "distill": OutputDistillation, "features": FeatureDistillation}


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Summed over everything but the first axis: [n, ...] -> [n]."""
    return (a - b).square().flatten(1).sum(1)


@contextmanager
def attention_maps(unet: nn.Module) -> Generator[list[Tensor]]:
    """Within `with`, the maps [n, H * W] of the outputs of the blocks of `unet`, plain or wrapped, in the order they run."""
    maps: list[Tensor] = []

    def record(block: nn.Module, arguments: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        maps.append(attention_map(output if isinstance(output, Tensor) else output[0]))

    plain: Any = next(module for module in unet.modules() if hasattr(module, "down_blocks"))
    hooks = [block.register_forward_hook(record) for block in (*plain.down_blocks, plain.mid_block, *plain.up_blocks)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def attention_map(features: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, H * W], of length 1."""
    return F.normalize(features.float().square().mean(1).flatten(1))


def min_snr(alpha_bar: Tensor, gamma: float | None) -> Tensor | float:
    """min(SNR, gamma) / SNR per image: the weight of a noise prediction (Hang et al. 2023, eq. 5); 1 for gamma None."""
    if gamma is None:
        return 1.0
    return (gamma * (1 - alpha_bar) / alpha_bar).clamp(max=1)
