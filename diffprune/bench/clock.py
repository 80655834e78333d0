"""Timing several ways of doing one thing, in turn and in one process, so that the machine's moods fall on all of them."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diffprune.runtime.progress import progress

Work = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round and of the `first` call; the most memory that one took above what was in use before, in MB.

    Of the GPU, or of this process.
    """
    seconds: list[float]
    extra_mb: float
    first: float = 0.0

    @property
    def median(self) -> float:
        return median(self.seconds)

    def times_as_fast_as(self, other: "Timing") -> float:
        """Median over the rounds of the other's time through this one's: rounds are pairs."""
        return median(theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True))

    def pays_from(self, other: "Timing") -> int | None:
        """The number of calls from which on this way has taken less than the other, first calls counted; None: never."""
        saved, dearer = other.median - self.median, self.first - other.first
        if saved <= 0:
            return None
        return 1 if dearer < 0 else 2 + math.floor(dearer / saved)


def alternating(works: Mapping[str, Work], rounds: int, device: torch.device, what: str) -> dict[str, Timing]:
    """Each of `works` once per round, in turn; the first round warms up (compiles, allocates) and is told apart."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks = dict.fromkeys(works, 0.0)
    turns = [(turn, name) for turn in range(rounds + 1) for name in works]
    for turn, name in progress(turns, what, len(turns)):
        peak = Peak(device)
        elapsed = clocked(works[name], device)
        seconds[name].append(elapsed)
        peaks[name] = max(peaks[name], peak.megabytes()) if turn else 0.0
    return {name: Timing(seconds[name][1:], peaks[name], seconds[name][0]) for name in works}


def clocked(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call, what it left running on a GPU included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """The most memory in use since this object was made, above what was then: the GPU's, as PyTorch allocates it, else this
    process's own."""

    STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif self.RESET.exists():
            self.RESET.write_text("5")      # Linux: forget the peak so far
        self.before = self.highest()

    def megabytes(self) -> float:
        """0 where the system does not tell."""
        return self.highest() - self.before

    def highest(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        if not self.STATUS.exists():
            return 0.0
        (line,) = (line for line in self.STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6


def machine(device: torch.device) -> dict[str, str]:
    """What the times were measured on."""
    known = {"processor": f"{processor()}, {torch.get_num_threads()} threads", "system": platform.platform()}
    if device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(device)
    return known


def processor() -> str:
    """The model's name and the vector instructions that matter here, as the system tells them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    flags = known.get("flags", "").split()
    useful = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([known.get("model name", platform.machine()), *useful])
