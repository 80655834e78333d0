"""How long one evaluation takes beside the dense model's: both timed in turn, in one process, on the run's device."""

import platform
import time
from dataclasses import dataclass

import torch
from torch import nn

from diffprune.models.cost import example_inputs

BATCH = 16      # images per evaluation: an option outside a run's name would decide the model's size
ROUNDS = 9


@dataclass(frozen=True)
class Latency:
    """`share` of the dense model's time: median of the pairs' ratios, with the quartiles around it, over `rounds` pairs."""
    share: float
    low: float
    high: float
    rounds: int
    device: str


def latency_share(unet: nn.Module, dense: nn.Module, rounds: int = ROUNDS, batch: int = BATCH) -> Latency:
    """Times `unet` and `dense`, which lie on one device, in turn; the first pair warms up and does not count."""
    pairs = [(seconds(unet, batch), seconds(dense, batch)) for _ in range(rounds + 1)][1:]
    ratios = torch.tensor([pruned / whole for pruned, whole in pairs], dtype=torch.float64)
    low, share, high = torch.quantile(ratios, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(share, low, high, rounds, hardware(next(unet.parameters()).device))


def seconds(unet: nn.Module, batch: int) -> float:
    """Wall-clock seconds of one evaluation of `batch` images."""
    inputs = {name: value.expand(batch, *value.shape[1:]) for name, value in example_inputs(unet).items()}
    device = next(unet.parameters()).device
    with torch.no_grad():
        start = time.perf_counter()
        unet(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
