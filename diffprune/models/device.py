"""Where and how networks run: device, precision, memory format, compilation."""

import copy
import logging
import os
import platform
import re
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.distributed import current_ranks
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16 = ("avx512_bf16", "amx_bf16")      # a CPU without these instructions emulates bf16, many times slower
CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)     # of what autocast computes in its precision, the layers with weights
FEWEST_EVALUATIONS = 2000       # from which compiling, which takes about a minute, is taken to pay on a GPU


@dataclass(frozen=True)
class Execution:
    """The `device` that networks run on, in which `precision` ("fp32", "tf32", "bf16", "fp16"), the `memory_format` of
    convolutions ("contiguous", "channels_last"), and the mode of torch.compile ("no", "default", "max-autotune").

    In bf16 and fp16 it is autocast's: parameters stay float32. "tf32" is float32 whose factors a GPU rounds to 10 bits.
    `approximate_precision` is that of what only has to be approximate, a teacher's predictions and previews; None: the same.
    """
    device: torch.device = CPU
    precision: str = "fp32"
    memory_format: str = "contiguous"
    compile: str = "no"
    approximate_precision: str | None = None

    @classmethod
    def of(cls, device: str, precision: str = "fp32", memory_format: str = "auto", compile: str = "no") -> "Execution":
        """From the options' values; each process of a run gets a GPU of its own. UserError where the machine lacks one.

        "auto" is: of `precision` float32, and bf16 for what only has to be approximate where the device has instructions for
        it; of `memory_format` channels_last on a GPU in anything but float32; of `compile` what `compiled_for` decides.
        """
        chosen = device_named(device)
        if chosen.type == "cpu" and precision in ("fp16", "tf32"):
            raise UserError(f"precision={precision} needs a GPU: on a CPU give precision=fp32 or precision=bf16")
        if current_ranks().world_size > 1 and chosen.type == "cuda":
            if chosen.index is not None:
                raise UserError(f"device={device} is one GPU for {current_ranks().world_size} processes: give device=cuda")
            chosen = torch.device("cuda", current_ranks().local_rank % torch.cuda.device_count())    # Slurm may show one
        approximate = "bf16" if precision == "auto" and computes_bf16(chosen) else None
        precision = "fp32" if precision == "auto" else precision
        if memory_format == "auto":
            memory_format = "channels_last" if chosen.type == "cuda" and precision != "fp32" else "contiguous"
        return cls(chosen, precision, memory_format, compile, approximate)

    def compiled_for(self, evaluations: int) -> "Execution":
        """The same, with compile=auto decided for that many evaluations of a network: on a GPU it is compiled where they are
        many. On a CPU compiling has never paid within a run (docs/performance.md)."""
        if self.compile != "auto":
            return self
        pays = self.device.type == "cuda" and evaluations >= FEWEST_EVALUATIONS
        return replace(self, compile="default" if pays else "no")

    @property
    def approximate(self) -> "Execution":
        """How to evaluate what only has to be approximate; never compiled, since it is evaluated seldom."""
        return replace(self, precision=self.approximate_precision or self.precision, compile="no")

    def __str__(self) -> str:
        aside = f" ({self.approximate_precision} for teacher and previews)" if self.approximate_precision else ""
        return f"{self.device}, {self.precision}{aside}, {self.memory_format}, compile={self.compile}"

    def place(self, model: DiffusionModel) -> DiffusionModel:
        """Moves `model` to the device, its convolutions into the memory format, and returns it."""
        self.format(model.unet)
        return model.to(self.device)

    def format(self, unet: nn.Module) -> nn.Module:
        """Changes `unet` in place so that its convolutions have the memory format, and returns it."""
        return unet.to(memory_format=torch.channels_last) if self.memory_format == "channels_last" else unet

    @contextmanager
    def autocast(self) -> Generator[None]:
        """The context in which a network runs in the chosen precision; parameters stay float32."""
        dtype = DTYPES[self.precision]
        with self.rounding(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            yield

    def rounding(self) -> AbstractContextManager[None]:
        """The context in which a GPU rounds float32 to TF32 where that is the precision; a backward pass needs only this."""
        return tf32(self.precision == "tf32")

    def for_evaluations(self, model: DiffusionModel) -> DiffusionModel:
        """`model`, placed, as it is evaluated fastest under `autocast` while its weights stay as they are. The weights that
        autocast would cast at every evaluation are cast once, in a copy, which changes no bit; and it is compiled."""
        unet, dtype = self.place(model).unet.eval(), DTYPES[self.precision]
        if dtype is not None:
            unet = copy.deepcopy(unet)
            for layer in unet.modules():
                if isinstance(layer, CAST):
                    layer.to(dtype)
        return replace(model, unet=self.compiled(unet))

    def compiled(self, unet: nn.Module, trains: bool = False) -> nn.Module:
        """`unet` as torch.compile makes it for one shape of inputs at the first evaluation; itself where nothing is to be
        compiled, or it is not decided yet. One that `trains` is never recorded as a CUDA graph, whose next evaluation would
        overwrite the gradients of the micro-batch before."""
        if self.compile in ("no", "auto"):
            return unet
        log.info("compiling the network, which takes about a minute")
        # The limit counts all networks of one class together, and beyond it none is compiled.
        torch._dynamo.config.recompile_limit = 256  # ty: ignore[invalid-assignment]  taken for a constant
        mode = "max-autotune-no-cudagraphs" if trains and self.compile == "max-autotune" else self.compile
        return cast(nn.Module, torch.compile(unet, dynamic=False, mode=mode))

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


def allow_tf32(allowed: bool) -> None:
    """Whether GPUs may round the factors of float32 products to TF32: convolutions do unless PyTorch is told otherwise."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def tf32(allowed: bool) -> Generator[None]:
    """A context in which TF32 is `allowed` or not, whatever it is outside."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(allowed)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def device_named(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"; UserError for another name or a missing GPU."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"device={name} is not known: choose auto, cpu, cuda or cuda:N")
    allow_tf32(False)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


@cache
def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bf16 numbers."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(name in processor() for name in BF16)


@cache
def processor() -> str:
    """The model's name and the vector instructions that matter here, as the system reports them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    return " ".join([fields.get("model name", platform.machine()), *(f for f in ("avx2", "avx512f", *BF16) if f in flags)])
