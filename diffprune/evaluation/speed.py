"""Timing several ways of doing one thing in turn, and how fast a model is beside another."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from diffprune.models.cost import example_inputs
from diffprune.runtime.memory import peak_resident, reset_peak
from diffprune.runtime.progress import progress

Work = Callable[[], Any]
LATENCY_BATCH = 16      # images per evaluation: an option outside a run's name would decide the model's size
LATENCY_ROUNDS = 9


@dataclass(frozen=True)
class Timing:
    """Seconds of each round and of the `first` call; `extra_mb`: the most memory that a call took above what was in use
    before it, in MB, of the GPU or of this process."""
    seconds: list[float]
    extra_mb: float = 0.0
    first: float = 0.0

    @property
    def median(self) -> float:
        return median(self.seconds)

    def ratios(self, other: "Timing") -> list[float]:
        """The other's time divided by this one's, round by round: rounds are pairs."""
        return [theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True)]

    def speedup_over(self, other: "Timing") -> float:
        """Median of the rounds' ratios."""
        return median(self.ratios(other))

    def pays_from(self, other: "Timing") -> int | None:
        """After how many calls, the first included, this way has taken less time than the other; None for never."""
        saved, dearer = other.median - self.median, self.first - other.first
        if saved <= 0:
            return None
        return 1 if dearer < 0 else 2 + math.floor(dearer / saved)


def time_in_turn(works: Mapping[str, Work], rounds: int, device: torch.device, what: str,
                 repeats: int = 1) -> dict[str, Timing]:
    """Times each of `works` once a round, in turn, so that a busy machine slows all alike; `repeats` calls are averaged.

    The first round warms up (compiles, allocates): it counts as the first call alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks = dict.fromkeys(works, 0.0)
    turns = [(turn, name) for turn in range(rounds + 1) for name in works]
    for turn, name in progress(turns, what, len(turns)):
        peak = PeakMemory(device)
        seconds[name].append(sum(clocked(works[name], device) for _ in range(repeats)) / repeats)
        peaks[name] = max(peaks[name], peak.megabytes()) if turn else 0.0
    return {name: Timing(seconds[name][1:], peaks[name], seconds[name][0]) for name in works}


def clocked(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call, including what it left running on a GPU."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory in use since this object was made, above what was in use then: the GPU's as PyTorch allocates it, else
    this process's main memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_peak()
        self.start = self.highest()

    def megabytes(self) -> float:
        return self.highest() - self.start

    def highest(self) -> float:
        return (torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_resident()) / 1e6


def evaluation(unet: nn.Module, batch: int) -> Work:
    """One evaluation of `unet` on `batch` images, as something to time."""
    inputs = example_inputs(unet, batch)

    def work() -> None:
        with torch.no_grad():
            unet(**inputs)
    return work


@dataclass(frozen=True)
class Latency:
    """`share` of the dense model's time: the median of `rounds` pairs' ratios, with the quartiles around it."""
    share: float
    low: float
    high: float
    rounds: int
    device: str


def latency_share(unet: nn.Module, dense: nn.Module, rounds: int = LATENCY_ROUNDS, batch: int = LATENCY_BATCH) -> Latency:
    """Times one evaluation of `unet` and of `dense`, which lie on one device, in turn."""
    device = next(unet.parameters()).device
    timings = time_in_turn({"pruned": evaluation(unet, batch), "dense": evaluation(dense, batch)}, rounds, device, "timing")
    ratios = torch.tensor(timings["dense"].ratios(timings["pruned"]), dtype=torch.float64)
    low, share, high = torch.quantile(ratios, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(share, low, high, rounds, hardware(device))


def speed(dense: nn.Module, final: nn.Module, batch: int, evaluations: int, rounds: int = 7) -> dict[str, float]:
    """Images per second of both networks, which lie on one device, and the speed-up, from evaluations timed in turn.

    An image takes `evaluations` of the network; medians over the `rounds`.
    """
    works = {"dense": evaluation(dense, batch), "final": evaluation(final, batch)}
    timings = time_in_turn(works, rounds, next(final.parameters()).device, "timing", repeats=3)
    per_second = {name: batch / (timing.median * evaluations) for name, timing in timings.items()}
    return {"images_per_second": per_second["final"], "images_per_second_dense": per_second["dense"],
            "speedup": timings["final"].speedup_over(timings["dense"])}


def hardware(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
