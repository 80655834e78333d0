"""What is timed, and the machine: a model with random weights and images of noise, since times depend on neither."""

import copy
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from diffprune.config.compose import composed
from diffprune.config.validation import check_values
from diffprune.diffusion.pixels import from_uint8
from diffprune.diffusion.randomness import generator, noise_for
from diffprune.models.cost import measure
from diffprune.models.dense import DenseModel
from diffprune.models.device import Execution, computes_bf16, processor
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Random
from diffprune.pruning.surgery import cut
from diffprune.runtime.errors import UserError
from diffprune.stages import options
from diffprune.training.recipe import Recipe

SEED = 0


@dataclass(frozen=True)
class Setting:
    """One model on one device, and how it is trained, pruned and sampled; `shape` (C, H, W) is that of its images. `every`
    says once in how many steps a step is logged and its state kept; `compiled` adds what torch.compile makes. `against`:
    another implementation of the denoiser, called with x_t and t, that everything is compared with."""
    model: DenseModel
    shape: tuple[int, int, int]
    recipe: Recipe
    allocation: Allocation
    spacing: str
    ssim_window: int
    every: dict[str, int]
    device: torch.device
    compiled: bool = False
    against: nn.Module | None = None

    @classmethod
    def of(cls, overrides: Sequence[str], batch: int, compiled: bool = False, against: Path | None = None) -> "Setting":
        """From the overrides of a run, with random weights and `batch` images a step; UserError for a wrong override, or
        where the Python file `against` has no function `denoiser`."""
        cfg = composed(["model.checkpoint=null", "logger=none", f"schedule.batch={batch}", *overrides])
        check_values(cfg)
        return cls(options.dense_model(cfg), options.image_shape(cfg), options.recipe(cfg), options.allocation(cfg),
                   cfg.sampler.spacing, cfg.evaluate.ssim_window,
                   {"log": cfg.schedule.log_every, "state": cfg.schedule.save_every},
                   options.execution(cfg).device, compiled, None if against is None else other_denoiser(against))

    batch = property(lambda self: self.recipe.batch)

    @cached_property
    def dense(self) -> DiffusionModel:
        """On the device, NCHW, float32, in evaluation mode."""
        return self.model.load().to(self.device)

    @cached_property
    def pruned(self) -> DiffusionModel:
        """The dense model without the channels that chance picks, at the pruner's ratio."""
        model = self.model.load()
        cut(model.unet, Random(), self.allocation)
        return model.to(self.device)

    def copy_of(self, model: DiffusionModel) -> DiffusionModel:
        """A model of its own, whose training changes no other."""
        return replace(model, unet=copy.deepcopy(model.unet)).to(self.device)

    def images(self, count: int) -> Tensor:
        """Bytes of noise as float images in [-1, 1], [count, C, H, W], on the CPU."""
        return from_uint8(torch.randint(0, 256, (count, *self.shape), generator=generator(SEED), dtype=torch.uint8))

    def noise(self, count: int) -> Tensor:
        """x_T [count, C, H, W] on the device."""
        return noise_for(range(count), self.dense.shape, SEED).to(self.device)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one evaluation of the dense model on one image."""
        return measure(self.dense.unet).macs

    @property
    def executions(self) -> dict[str, Execution]:
        """{name: how} of every numeric format and memory format that the device is fast in."""
        has = {"fp32": True, "tf32": self.device.type == "cuda", "bf16": computes_bf16(self.device)}
        formats = [name for name, computed in has.items() if computed]
        ways = {name: Execution(self.device, name) for name in formats}
        ways |= {f"{name}, channels_last": Execution(self.device, name, "channels_last") for name in formats}
        if self.compiled:
            ways |= {f"{name}, compiled": Execution(self.device, name, "channels_last", "default") for name in formats}
        return ways

    def ways(self, model: DiffusionModel) -> dict[str, tuple[nn.Module, Execution]]:
        """{name: (network, how it runs)} of every way to evaluate a copy of `model`."""
        return {name: (how.for_evaluations(self.copy_of(model)).unet, how) for name, how in self.executions.items()}


class Other(nn.Module):
    """Another implementation of the denoiser, called as diffusers' networks are."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.denoiser(x_t, t))


def other_denoiser(file: Path) -> nn.Module:
    """What the function `denoiser` of a Python file returns: a network that is called with x_t [B, C, H, W] and t [B] and
    predicts the noise. UserError where there is none."""
    if not file.is_file():
        raise UserError(f"--against {file}: there is no such file; give one with a function denoiser()")
    made = run_path(str(file)).get("denoiser")
    if not callable(made) or not isinstance(network := made(), nn.Module):
        raise UserError(f"--against {file} has no function denoiser() that returns a torch.nn.Module: write one")
    return Other(network)


def machine(device: torch.device) -> dict[str, str]:
    """Processor, operating system and, where it was used, the GPU."""
    host = {"processor": f"{processor()}, {torch.get_num_threads()} threads", "system": platform.platform()}
    if device.type == "cuda":
        host["gpu"] = torch.cuda.get_device_name(device)
    return host
