"""Where and how networks run: device, precision, memory format."""

import os
import re
from dataclasses import dataclass, replace

import torch
from torch import nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import current_ranks
from diffprune.runtime.errors import UserError

CPU = torch.device("cpu")
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """The `device` that networks run on, autocast's `precision` ("no", "bf16", "fp16") and the convolutions' `memory_format`
    ("contiguous", "channels_last")."""
    device: torch.device = CPU
    precision: str = "no"
    memory_format: str = "contiguous"

    @classmethod
    def of(cls, device: str, precision: str, memory_format: str) -> "Execution":
        """From the options' values; each process of a run gets a GPU of its own. UserError where the machine lacks one."""
        chosen = device_named(device)
        if chosen.type == "cpu" and precision == "fp16":
            raise UserError("precision=fp16 needs a GPU: on a CPU give precision=no or precision=bf16")
        if current_ranks().world_size > 1 and chosen.type == "cuda":
            if chosen.index is not None:
                raise UserError(f"device={device} is one GPU for {current_ranks().world_size} processes: give device=cuda")
            chosen = torch.device("cuda", current_ranks().local_rank % torch.cuda.device_count())    # Slurm may show one
        return cls(chosen, precision, memory_format)

    def place(self, model: DiffusionModel) -> DiffusionModel:
        """Moves `model` to the device, its convolutions into the memory format, and returns it."""
        self.format(model.unet)
        return model.to(self.device)

    def format(self, unet: nn.Module) -> nn.Module:
        """Changes `unet` in place so that its convolutions have the memory format, and returns it."""
        return unet.to(memory_format=torch.channels_last) if self.memory_format == "channels_last" else unet

    def autocast(self) -> torch.autocast:
        """The context in which a network runs in the chosen precision; parameters stay float32."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def process_count(self, requested: int | None) -> int:
        """How many local processes draw images: `requested`, or one for each GPU or, on a CPU, for each core (at most 8).

        A run that a launcher started as several processes has its processes already: then 1.
        """
        if current_ranks().world_size > 1:
            return 1
        if requested is not None:
            return requested
        if self.device.type == "cuda":
            return 1 if self.device.index is not None else torch.cuda.device_count()
        return min(8, len(os.sched_getaffinity(0)))

    def of_process(self, index: int) -> "Execution":
        """The same for the `index`-th local process (0, 1, …): GPUs in turn, unless one was named."""
        if self.device.type != "cuda" or self.device.index is not None:
            return self
        return replace(self, device=torch.device("cuda", index % torch.cuda.device_count()))


def device_named(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"; UserError for another name or a missing GPU."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"device={name} is not known: choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device
