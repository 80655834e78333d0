"""What is timed, and the machine: a model with random weights and images of noise, since times depend on neither."""

import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffprune.config.compose import composed
from diffprune.config.validation import check_values
from diffprune.diffusion.pixels import from_uint8
from diffprune.diffusion.randomness import generator, noise_for
from diffprune.models.cost import measure
from diffprune.models.dense import DenseModel
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Random
from diffprune.pruning.surgery import cut
from diffprune.stages import options
from diffprune.training.recipe import Recipe

SEED = 0
BF16 = ("avx512_bf16", "amx_bf16")      # a CPU without these instructions emulates bf16, many times slower


@dataclass(frozen=True)
class Setting:
    """One model on one device, and how it is trained, pruned and sampled; `shape` (C, H, W) is that of its images. `every`
    says once in how many steps a step is logged and its state kept; `compiled` adds what torch.compile makes."""
    model: DenseModel
    shape: tuple[int, int, int]
    recipe: Recipe
    allocation: Allocation
    spacing: str
    ssim_window: int
    every: dict[str, int]
    device: torch.device
    compiled: bool = False

    @classmethod
    def of(cls, overrides: Sequence[str], batch: int, compiled: bool = False) -> "Setting":
        """From the overrides of a run, with random weights and `batch` images a step; UserError for a wrong override."""
        cfg = composed(["model.checkpoint=null", "logger=none", f"schedule.batch={batch}", *overrides])
        check_values(cfg)
        return cls(options.dense_model(cfg), options.image_shape(cfg), options.recipe(cfg), options.allocation(cfg),
                   cfg.sampler.spacing, cfg.evaluate.ssim_window,
                   {"log": cfg.schedule.log_every, "state": cfg.schedule.save_every},
                   options.execution(cfg).device, compiled)

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
        ways = {"fp32": Execution(self.device), "fp32, channels_last": Execution(self.device, "no", "channels_last")}
        if computes_bf16(self.device):
            ways["bf16, channels_last"] = Execution(self.device, "bf16", "channels_last")
        return ways

    def ways(self, unet: nn.Module) -> dict[str, tuple[Callable[..., Any], Execution]]:
        """{name: (network, how it runs)} of every way to evaluate a copy of `unet`."""
        plain, last = copy.deepcopy(unet).eval(), copy.deepcopy(unet).to(memory_format=torch.channels_last).eval()
        fp32, *_, fastest = self.executions.values()
        ways: dict[str, tuple[Callable[..., Any], Execution]] = {"eager": (plain, fp32), "channels_last": (last, fp32)}
        if fastest.precision == "bf16":
            ways["channels_last, bf16"] = (last, fastest)
        if self.compiled:       # each of its own: a compiled network is compiled for one format
            ways |= {name.replace("channels_last", "compiled"): (torch.compile(copy.deepcopy(last)), how)
                     for name, (_, how) in list(ways.items())[1:]}
        return ways


def machine(device: torch.device) -> dict[str, str]:
    """Processor, operating system and, where it was used, the GPU."""
    host = {"processor": f"{processor()}, {torch.get_num_threads()} threads", "system": platform.platform()}
    if device.type == "cuda":
        host["gpu"] = torch.cuda.get_device_name(device)
    return host


def processor() -> str:
    """The model's name and the vector instructions that matter here, as the system reports them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    return " ".join([fields.get("model name", platform.machine()), *(f for f in ("avx2", "avx512f", *BF16) if f in flags)])


def computes_bf16(device: torch.device) -> bool:
    return device.type == "cuda" or any(name in processor() for name in BF16)
