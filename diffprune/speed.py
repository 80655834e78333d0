"""How fast a model is beside another, on this machine."""

import time
from statistics import median

import torch
from omegaconf import DictConfig
from torch import nn

from diffprune.checkpoint import load_model
from diffprune.cost import example_inputs
from diffprune.models import load_dense
from diffprune.progress import progress
from diffprune.run import Run


def speed(cfg: DictConfig, run: Run, device: torch.device, rounds: int = 7) -> dict[str, float]:
    """Images per second of dense and final model: alternating evaluations in this process, medians, times the steps."""
    models = {"dense": load_dense(cfg).unet, "final": load_model(run.final(cfg)).unet}
    batch, seconds = min(64, cfg.sampler.batch), {name: [] for name in models}
    for turn in progress(range(rounds + 1), "timing", rounds + 1):
        for name, unet in models.items():
            elapsed = evaluation_seconds(unet.to(device), batch)
            if turn:        # the first turn warms up
                seconds[name].append(elapsed)
    ratios = [dense / final for dense, final in zip(seconds["dense"], seconds["final"], strict=True)]
    evaluations = cfg.sampler.steps * (1 if cfg.sampler.guidance in (None, 1) else 2)
    per_second = {name: batch / (median(times) * evaluations) for name, times in seconds.items()}
    return {"images_per_second": per_second["final"], "images_per_second_dense": per_second["dense"],
            "speedup": median(ratios)}


def evaluation_seconds(unet: nn.Module, batch: int, repeats: int = 3) -> float:
    """Wall-clock seconds of one evaluation of `batch` images, mean of a few in a row."""
    inputs = example_inputs(unet)
    inputs = {name: value.expand(batch, *value.shape[1:]) for name, value in inputs.items()}
    with torch.no_grad():
        start = time.perf_counter()
        for _ in range(repeats):
            unet(**inputs)
        if next(unet.parameters()).device.type == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats
