"""What is timed: a model with random weights and images of noise, for the clock does not look at either."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from diffprune.bench.clock import processor
from diffprune.config.compose import composed
from diffprune.config.validation import check_values
from diffprune.diffusion.pixels import from_uint8
from diffprune.diffusion.randomness import generator, noise_for
from diffprune.models.cost import measure
from diffprune.models.dense import load_dense
from diffprune.models.device import device_of
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.criteria import Random
from diffprune.pruning.surgery import asked, cut

SEED = 0


@dataclass(frozen=True)
class Setting:
    """One model on one device; `batch` images per step; `compiled`: also the ways that torch.compile makes."""
    cfg: DictConfig
    batch: int
    compiled: bool = False

    @classmethod
    def of(cls, overrides: list[str], batch: int, compiled: bool = False) -> "Setting":
        """From the overrides of a run; raises UserError for one that is none."""
        cfg = composed(["model.checkpoint=null", "logger=none", f"schedule.batch={batch}", *overrides])
        check_values(cfg)
        return cls(cfg, batch, compiled)

    @property
    def device(self) -> torch.device:
        return device_of(self.cfg)

    @cached_property
    def dense(self) -> DiffusionModel:
        """On the device, NCHW, float32, in evaluation mode."""
        return load_dense(self.cfg).to(self.device)

    @cached_property
    def pruned(self) -> DiffusionModel:
        """The dense model without the channels that chance picks, at the pruner's ratio."""
        model = load_dense(self.cfg)
        cut(model.unet, Random(), self.cfg.pruner.ratio, **asked(self.cfg))
        return model.to(self.device)

    def copy_of(self, model: DiffusionModel, channels_last: bool = False) -> DiffusionModel:
        """A model of its own, whose training disturbs no other."""
        unet = copy.deepcopy(model.unet)
        if channels_last:
            unet.to(memory_format=torch.channels_last)
        return DiffusionModel(unet, model.scheduler).to(self.device)

    def images(self, count: int) -> Tensor:
        """Bytes of noise as float images in [-1, 1], [count, C, H, W], on the CPU."""
        data = self.cfg.dataset
        shape = (count, data.channels, data.resolution, data.resolution)
        return from_uint8(torch.randint(0, 256, shape, generator=generator(SEED), dtype=torch.uint8))

    def noise(self, count: int) -> Tensor:
        """x_T [count, C, H, W] on the device."""
        return noise_for(range(count), self.dense.shape, SEED).to(self.device)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one evaluation of the dense model on one image."""
        return measure(self.dense.unet).macs

    @cached_property
    def macs_ratio(self) -> float:
        """How many times fewer multiply-accumulates the pruned model takes."""
        return self.macs / measure(self.pruned.unet).macs

    @property
    def knows_bf16(self) -> bool:
        """Whether the device computes in bf16; a CPU without the instructions emulates it, many times slower."""
        return self.device.type == "cuda" or any(name in processor() for name in ("avx512_bf16", "amx_bf16"))

    def ways(self, unet: nn.Module) -> dict[str, tuple[nn.Module, torch.dtype | None]]:
        """{name: (network, autocast's type)} of every way to evaluate a copy of `unet`."""
        plain, last = copy.deepcopy(unet).eval(), copy.deepcopy(unet).to(memory_format=torch.channels_last).eval()
        ways: dict[str, tuple[nn.Module, torch.dtype | None]] = {"eager": (plain, None), "channels_last": (last, None)}
        if self.knows_bf16:
            ways["channels_last, bf16"] = (last, torch.bfloat16)
        if self.compiled:
            ways["compiled"] = (torch.compile(copy.deepcopy(last)), None)
        if self.compiled and self.knows_bf16:
            ways["compiled, bf16"] = (torch.compile(copy.deepcopy(last)), torch.bfloat16)
        return ways
