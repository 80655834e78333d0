"""Stage 5: score the images, and time the model against the dense one."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from diffprune.diffusion.pixels import batches
from diffprune.evaluation.feature_statistics import Portrait, drawn_from
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.latency import hardware
from diffprune.evaluation.pair_metrics import similarity
from diffprune.evaluation.reference import reference
from diffprune.evaluation.set_metrics import Settings, against, fid
from diffprune.evaluation.speed import speed
from diffprune.models.dense import load_dense
from diffprune.models.device import device_of
from diffprune.models.model_folder import load_model
from diffprune.runs.cache import Cache
from diffprune.runs.provenance import provenance, versions
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json, write_json
from diffprune.sampling.draw import shared_images
from diffprune.sampling.protocol import sampler_protocol
from diffprune.tracking.tracker import Tracker


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `metrics.json`: achieved sizes, distances, similarity, speed, each with the protocol it was made under."""
    start, device = time.monotonic(), device_of(cfg)
    extractor = load_extractor(cfg.evaluate.features, cfg.evaluate.weights).to(device)
    compared_with, about = reference(cfg, extractor, run)
    report, images = read_json(run.prune_report), stored_images(cfg, run)
    sizes = {name: report[name] for name in ("params", "macs", "params_dense", "macs_dense")}
    metrics = sizes | {"features": extractor.name, "images": len(images)}
    metrics |= quality(cfg, run, extractor, compared_with, images)
    if cfg.evaluate.speed:
        metrics |= speed(cfg, run, device)
    identity = {"name": run.name, "dataset": cfg.dataset.name, "model": cfg.model.name, "pruner": cfg.pruner.name,
                "schedule": cfg.schedule.name, "seed": cfg.seed}
    seconds = run.seconds() | {"evaluate": round(time.monotonic() - start, 3)}
    write_json(run.metrics, identity | metrics | {
        "protocol": protocol(cfg, compared_with.count) | about, "versions": versions(), "seconds": seconds,
        "device": hardware(device), **provenance()})
    tracker.summary({name: value for name, value in metrics.items() if isinstance(value, int | float)})


def stored_images(cfg: DictConfig, run: Run) -> np.ndarray:
    """The run's images; raises UserError with both counts when they are not exactly as many as asked."""
    images = np.load(run.images, mmap_mode="r")
    if len(images) != cfg.evaluate.images:
        raise UserError(f"{run.images} holds {len(images)} images, evaluate.images asks for {cfg.evaluate.images}: "
                        f"delete {run.samples} and repeat")
    return images


def quality(cfg: DictConfig, run: Run, extractor: Extractor, data: Portrait, images: np.ndarray) -> dict[str, Any]:
    """Distances to the data, and to the dense model's images: final, `_dense`, `_before_healing`; None if not asked for.

    `fid_to_dense` is the Fréchet distance to the dense model's images, on the same features.
    """
    device, before = device_of(cfg), None
    dense = shared_images(load_dense(cfg).to(device), cfg, "dense model") if cfg.model.checkpoint is not None else None
    if cfg.evaluate.before_healing and run.final(cfg) != run.pruned:
        before = shared_images(load_model(run.pruned).to(device), cfg, "before healing")
    settings = Settings(cfg.evaluate.kid_subset, cfg.evaluate.neighbours)
    seen_dense = shared(cfg, extractor, dense, "dense model")
    found = suffixed(against(seen_dense, data, settings), "_dense")
    for suffix, of, seen in (("", images, portrait(cfg, extractor, images, "final model")),
                             ("_before_healing", before, shared(cfg, extractor, before, "before healing"))):
        alike = similarity(pairs(cfg, of, dense), cfg.evaluate.ssim_window, device)
        found |= suffixed(against(seen, data, settings) | {"fid_to_dense": fid(seen, seen_dense)} | alike, suffix)
    return found


def suffixed(values: dict[str, Any], suffix: str) -> dict[str, Any]:
    return {name + suffix: value for name, value in values.items()}


def portrait(cfg: DictConfig, extractor: Extractor, images: np.ndarray, what: str) -> Portrait:
    parts = batches(images, cfg.evaluate.batch)
    return Portrait.of(extractor, parts, len(images), cfg.evaluate.subset, what)


def shared(cfg: DictConfig, extractor: Extractor, images: np.ndarray | None, what: str) -> Portrait | None:
    """The portrait of images that several runs compare with, made once."""
    if images is None:
        return None
    key = {"images": sha256_of(images), "features": extractor.name, **extractor.about, "subset": cfg.evaluate.subset,
           **drawn_from(len(images), cfg.evaluate.subset)}
    with Cache(Path(cfg.paths.cache)).entry("portraits", key, ".npz") as path:
        if not path.exists():
            portrait(cfg, extractor, images, what).save(path)
        return Portrait.read(path)


def sha256_of(images: np.ndarray) -> str:
    """Hex digest of an array of images, read part by part."""
    digest = hashlib.sha256(str(images.shape).encode())
    for part in batches(images, 256):
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


def pairs(cfg: DictConfig, images: np.ndarray | None, dense: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (image i, the dense model's image i); nothing where there is nothing to compare."""
    if images is not None and dense is not None:
        yield from zip(batches(images, cfg.evaluate.batch), batches(dense, cfg.evaluate.batch), strict=True)


def protocol(cfg: DictConfig, reference: int | None = None) -> dict[str, Any]:
    """What a number must share with another to be compared with it; `reference`: number of images that it compares with."""
    sampler = {("sampler" if name == "name" else name): value for name, value in sampler_protocol(cfg).items()}
    recipe = cfg.schedule
    average = recipe.ema if recipe.ema_power is None else f"power {recipe.ema_power:g}"
    return sampler | {"images": cfg.evaluate.images, "ema": average if recipe.steps else None,
                      "ssim_window": cfg.evaluate.ssim_window, "kid_subset": cfg.evaluate.kid_subset,
                      "subset": cfg.evaluate.subset, "neighbours": cfg.evaluate.neighbours, "precision": cfg.precision,
                      **drawn_from(max(cfg.evaluate.images, reference or 0), cfg.evaluate.subset)}
