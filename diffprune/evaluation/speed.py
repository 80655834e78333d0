"""How fast a model is beside another, on this machine."""

from statistics import median

import torch
from omegaconf import DictConfig

from diffprune.config.schema import evaluations
from diffprune.evaluation import latency
from diffprune.models.dense import load_dense
from diffprune.models.device import formatted
from diffprune.models.model_folder import load_model
from diffprune.runs.run import Run
from diffprune.runtime.progress import progress

REPEATS = 3     # evaluations in a row, of which the mean counts


def speed(cfg: DictConfig, run: Run, device: torch.device, rounds: int = 7) -> dict[str, float]:
    """Images per second of dense and final model: alternating evaluations in this process, medians, times the steps."""
    models = {"dense": formatted(load_dense(cfg).unet, cfg), "final": formatted(load_model(run.final(cfg)).unet, cfg)}
    batch, seconds = min(64, cfg.sampler.batch), {name: [] for name in models}
    for turn in progress(range(rounds + 1), "timing", rounds + 1):
        for name, unet in models.items():
            elapsed = [latency.seconds(unet.to(device), batch) for _ in range(REPEATS)]
            if turn:        # the first turn warms up
                seconds[name].append(sum(elapsed) / REPEATS)
    ratios = [dense / final for dense, final in zip(seconds["dense"], seconds["final"], strict=True)]
    per_second = {name: batch / (median(times) * evaluations(cfg.sampler)) for name, times in seconds.items()}
    return {"images_per_second": per_second["final"], "images_per_second_dense": per_second["dense"],
            "speedup": median(ratios)}
