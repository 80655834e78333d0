"""Stage 5: score the images, and time the model against the dense one."""

import logging
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_msssim import ssim
from torch import nn

from diffprune.checkpoint import load_model
from diffprune.cost import example_inputs
from diffprune.data import load_images
from diffprune.draw import sampler_protocol, shared_images
from diffprune.errors import UserError
from diffprune.features import Extractor, load_extractor, unit
from diffprune.files import appearing, read_json, write_json
from diffprune.frechet import Statistics, frechet_distance
from diffprune.models import device_of, load_dense
from diffprune.progress import progress
from diffprune.run import Cache, Run
from diffprune.track import Tracker

log = logging.getLogger(__name__)

LIBRARIES = ("diffusers", "hydra-core", "numpy", "pytorch-fid", "pytorch-msssim", "scipy", "torch", "torch-pruning")


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `metrics.json`: achieved sizes, distances, similarity, speed, each with the protocol it was made under."""
    start, device = time.monotonic(), device_of(cfg)
    extractor = load_extractor(cfg.evaluate.features, cfg.evaluate.weights)
    extractor.network.to(device)
    reference, about = reference_statistics(cfg, extractor)
    report, images = read_json(run.prune_report), stored_images(cfg, run)
    sizes = {name: report[name] for name in ("params", "macs", "params_dense", "macs_dense")}
    metrics = sizes | {"features": extractor.name, "images": len(images), **quality(cfg, run, extractor, reference, images)}
    if cfg.evaluate.speed:
        metrics |= speed(cfg, run, device)
    identity = {"name": run.name, "dataset": cfg.dataset.name, "model": cfg.model.name, "pruner": cfg.pruner.name,
                "schedule": cfg.schedule.name, "seed": cfg.seed}
    seconds = run.seconds() | {"evaluate": round(time.monotonic() - start, 3)}
    write_json(run.metrics, identity | metrics | {
        "protocol": protocol(cfg) | about, "versions": versions(), "seconds": seconds,
        "device": hardware(device), **provenance()})
    tracker.summary({name: value for name, value in metrics.items() if isinstance(value, int | float)})


def stored_images(cfg: DictConfig, run: Run) -> np.ndarray:
    """The run's images; raises UserError with both counts when they are not exactly as many as asked."""
    images = np.load(run.images, mmap_mode="r")
    if len(images) != cfg.evaluate.images:
        raise UserError(f"{run.images} holds {len(images)} images, evaluate.images asks for {cfg.evaluate.images}: "
                        f"delete {run.samples} and repeat")
    return images


def quality(cfg: DictConfig, run: Run, extractor: Extractor, reference: Statistics, images: np.ndarray) -> dict[str, Any]:
    """Fréchet distance to the data and SSIM to the dense model's images: final, before healing, dense; None if not asked."""
    def distance(of: np.ndarray | None) -> float | None:
        return None if of is None else frechet_distance(Statistics.of(extractor.of(of, cfg.evaluate.batch)), reference)

    def similarity(of: np.ndarray | None) -> float | None:
        return None if of is None or dense is None else mean_ssim(of, dense, cfg)

    device = device_of(cfg)
    dense = shared_images(load_dense(cfg).to(device), cfg, "dense model") if cfg.model.checkpoint is not None else None
    unhealed = cfg.evaluate.before_healing and run.final(cfg) != run.pruned
    before = shared_images(load_model(run.pruned).to(device), cfg, "before healing") if unhealed else None
    return {"fid": distance(images), "ssim": similarity(images), "fid_dense": distance(dense),
            "fid_before_healing": distance(before), "ssim_before_healing": similarity(before)}


def mean_ssim(images: np.ndarray, dense: np.ndarray, cfg: DictConfig) -> float:
    """Mean structural similarity of the pairs (image i, dense image i), uint8 [N, H, W, C]; 1 for equal ones."""
    window, batch = cfg.evaluate.ssim_window, cfg.evaluate.batch
    total = sum(float(ssim(unit(images[i:i + batch]), unit(dense[i:i + batch]), data_range=1.0, win_size=window,
                           size_average=False).double().sum()) for i in range(0, len(images), batch))
    return total / len(images)


def reference_statistics(cfg: DictConfig, extractor: Extractor) -> tuple[Statistics, dict[str, Any]]:
    """Statistics of the data set's images, computed once per (images, extractor), and their place in the protocol."""
    images = load_images(cfg)
    key = {"data": images.key, "features": extractor.name, **extractor.about}
    with Cache(Path(cfg.paths.cache)).entry("statistics", key, ".npz") as path:
        if not path.exists():
            size = cfg.evaluate.batch
            chunks = progress(images.chunks(size), "features of the data set", -(-len(images) // size))
            statistics = Statistics.of(np.concatenate([extractor.of(chunk, size) for chunk in chunks]))
            with appearing(path) as partial, partial.open("wb") as file:
                np.savez(file, mu=statistics.mu, sigma=statistics.sigma)
        with np.load(path) as stored:
            about = {"reference": f"{cfg.dataset.name}, {len(images)} images", "reference_key": path.stem}
            return Statistics(stored["mu"], stored["sigma"]), about | extractor.about


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


def protocol(cfg: DictConfig) -> dict[str, Any]:
    """What a number must share with another to be compared with it."""
    sampler = {("sampler" if name == "name" else name): value for name, value in sampler_protocol(cfg).items()}
    return sampler | {"images": cfg.evaluate.images, "ema": cfg.schedule.ema if cfg.schedule.steps else None,
                      "ssim_window": cfg.evaluate.ssim_window, "precision": cfg.precision}


def versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in LIBRARIES}


def provenance() -> dict[str, str | None]:
    """The command that makes this run anywhere, and the commit of the source where it lies in a git checkout."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=Path(__file__).parent,
                             capture_output=True, text=True)
        commit = git.stdout.strip() if git.returncode == 0 else None
    except FileNotFoundError:       # no git on this machine
        commit = None
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    wanted = [override for override in overrides if not override.startswith("paths.")]
    return {"command": " ".join(["python -m diffprune", *wanted]), "commit": commit}


def hardware(device: torch.device) -> str:
    """What the times were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
