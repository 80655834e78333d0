"""The machine that times were measured on."""

import platform
from pathlib import Path

import torch

BF16 = ("avx512_bf16", "amx_bf16")      # a CPU without these instructions emulates bf16, many times slower


def machine(device: torch.device) -> dict[str, str]:
    """Processor, operating system and, where it was used, the GPU."""
    known = {"processor": f"{processor()}, {torch.get_num_threads()} threads", "system": platform.platform()}
    if device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(device)
    return known


def processor() -> str:
    """The model's name and the vector instructions that matter here, as the system reports them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    return " ".join([known.get("model name", platform.machine()), *(f for f in ("avx2", "avx512f", *BF16) if f in flags)])


def computes_bf16(device: torch.device) -> bool:
    return device.type == "cuda" or any(name in processor() for name in BF16)
