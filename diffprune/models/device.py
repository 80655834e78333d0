"""Where a network runs: device, precision, memory format."""

import os
import re

import torch
from omegaconf import DictConfig
from torch import nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import present
from diffprune.runtime.errors import UserError


def device_of(cfg: DictConfig) -> torch.device:
    """The device that `device=` asks for, one GPU for each process of a run; raises UserError where the machine has none."""
    device = device_named(cfg.device)
    if device.type == "cpu" and cfg.precision == "fp16":
        raise UserError("precision=fp16 needs a GPU: on a CPU give precision=no or precision=bf16")
    if present().size > 1 and device.type == "cuda":
        if device.index is not None:
            raise UserError(f"device={cfg.device} is one GPU for {present().size} processes: give device=cuda")
        return torch.device("cuda", present().local % torch.cuda.device_count())    # Slurm may show each its own
    return device


def device_named(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N; raises UserError for another name and where the machine has none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"device={name} is not known: choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def placed(model: DiffusionModel, cfg: DictConfig) -> DiffusionModel:
    """`model` on the run's device, its convolutions in the run's `memory_format`."""
    formatted(model.unet, cfg)
    return model.to(device_of(cfg))


def formatted(unet: nn.Module, cfg: DictConfig) -> nn.Module:
    """`unet`, changed in place: its convolutions in the run's `memory_format`."""
    return unet.to(memory_format=torch.channels_last) if cfg.memory_format == "channels_last" else unet


def processes_for(cfg: DictConfig) -> int:
    """`sampler.processes`, or where it is null one for each GPU or, on a CPU, for each core, at most 8 (memory).

    A run that a launcher started several times has its processes already: each of them is one.
    """
    if present().size > 1:
        return 1
    if cfg.sampler.processes is not None:
        return cfg.sampler.processes
    device = device_of(cfg)
    if device.type == "cuda":
        return 1 if device.index is not None else torch.cuda.device_count()
    return min(8, len(os.sched_getaffinity(0)))


def device_of_process(cfg: DictConfig, index: int) -> torch.device:
    """The device of the `index`-th process of several: the GPUs in turn, unless `device=` names one or asks for the CPU."""
    device = device_of(cfg)
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", index % torch.cuda.device_count())


def autocast(cfg: DictConfig, device: torch.device) -> torch.autocast:
    """The context in which the network runs under `precision=`; parameters stay float32."""
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
