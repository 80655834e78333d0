"""Stage 5: score the images, and time the model against the dense one."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from omegaconf import DictConfig

from diffprune.config.compose import made
from diffprune.config.schema import evaluations
from diffprune.diffusion.pixels import batches
from diffprune.evaluation.comparison import ImagesSeen, scores_of_set
from diffprune.evaluation.feature_statistics import FeatureStatistics, subset_rule
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.held_out_loss import held_out_loss
from diffprune.evaluation.pair_metrics import ssim_of_each
from diffprune.evaluation.reference import data_statistics, file_statistics
from diffprune.evaluation.set_metrics import SetMetric, Settings, against
from diffprune.evaluation.speed import hardware, speed
from diffprune.models.device import Execution
from diffprune.models.identity import computation
from diffprune.runs.data_record import note_skipped
from diffprune.runs.metrics import Metrics, MetricValues
from diffprune.runs.provenance import commits, provenance, versions
from diffprune.runs.run import Run
from diffprune.runs.samples import Samples, read_images
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json
from diffprune.stages.cost import cost
from diffprune.stages.options import (
    TITLES,
    begin_data,
    cache,
    criterion,
    execution,
    healing,
    load_dense,
    load_images,
    load_own,
    parts,
    sampler_options,
    timestep_policy,
    trains,
)
from diffprune.tracking.tracker import Tracker

FIRST = 64      # images whose similarity to the dense model's is kept one by one


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `metrics.json`: achieved sizes, distances, similarity, speed, each with the protocol it was made under."""
    start, how = time.monotonic(), execution(cfg)
    extractor = load_extractor(cfg.evaluate.features, cfg.evaluate.weights).to(how.device)
    reference, about = reference_of(cfg, run, extractor)
    sets = image_sets(cfg, run)
    further = further_metrics(cfg)
    scores = score_sets(cfg, extractor, reference, sets, how, further)
    losses = held_out_losses(cfg, run, how)
    for name, ranges in losses.items():
        scores[name] = {**scores[name], "held_out_loss": fmean(ranges)}
    timed = time_models(cfg, run, how) if cfg.evaluate.speed else {}
    sizes = {name: read_json(run.prune_report)[name] for name in ("params", "macs", "params_dense", "macs_dense")}
    metrics = Metrics(
        run.name, cfg.dataset.name, cfg.model.name, cfg.pruner.name, cfg.schedule.name, cfg.seed, **sizes,
        features=extractor.name, images=len(sets["final"]), scores=scores, speed=timed, held_out_losses=losses,
        first_ssim=first_ssim(cfg, sets, how),
        measures={name: {"title": metric.title, "arrow": metric.arrow} for name, metric in further.items()},
        cost=spent(cfg, run), protocol=protocol(cfg, run, reference.count) | about, versions=versions(),
        device=hardware(how.device),
        seconds=run.seconds() | {"evaluate": round(time.monotonic() - start, 3)}, commits=commits(run),
        **provenance())
    metrics.write(run.metrics)
    tracker.summary(metrics.numbers())


def spent(cfg: DictConfig, run: Run) -> dict[str, int]:
    """The multiply-accumulates of each stage."""
    rounds = run.rounds(cfg.schedule.rounds)
    return cost(rounds, [healing(cfg, each) for each in rounds] if trains(cfg) else [], cfg.pruner.calibration_batch,
                timestep_policy(cfg, criterion(cfg)).needs_all_losses, cfg.evaluate.images * evaluations(cfg.sampler))


def further_metrics(cfg: DictConfig) -> dict[str, SetMetric]:
    """{name: the metric} of those that the run computes besides the package's own."""
    return {str(name): made(metric, SetMetric) for name, metric in cfg.evaluate.metrics.items()}


def reference_of(cfg: DictConfig, run: Run, extractor: Extractor) -> tuple[FeatureStatistics, dict[str, Any]]:
    """The statistics that images are compared with, and what of the protocol they decide."""
    if cfg.evaluate.reference is not None:
        return file_statistics(Path(cfg.evaluate.reference), extractor)
    images = load_images(cfg)
    begin_data(cfg, run, images)
    statistics, about = data_statistics(images, cfg.dataset.name, extractor, cache(cfg), cfg.evaluate.subset,
                                        cfg.evaluate.batch)
    note_skipped(run, statistics.skipped)
    return statistics, about


def image_sets(cfg: DictConfig, run: Run) -> dict[str, np.ndarray]:
    """{"dense", "final", "before_healing": its images, mapped}, of the sets that were drawn. UserError with both counts
    where a set does not hold exactly as many images as asked for."""
    sets = {name: read_images(file) for name, file in Samples.read(run).files(run, cache(cfg)).items()}
    for images in sets.values():
        if len(images) != cfg.evaluate.images:
            raise UserError(f"{run.images} holds {len(images)} images, evaluate.images asks for {cfg.evaluate.images}: "
                            f"delete {run.samples} and repeat")
    return {name: sets[name] for name in TITLES if name in sets}


def score_sets(cfg: DictConfig, extractor: Extractor, reference: FeatureStatistics, sets: dict[str, np.ndarray],
               how: Execution, further: dict[str, SetMetric]) -> dict[str, MetricValues]:
    """Distances of each set to the reference and to the dense model's images; None for sets that were not drawn.
    `fid_to_dense` is the Fréchet distance to the dense model's images, on the same features."""
    settings = Settings(cfg.evaluate.kid_subset, cfg.evaluate.neighbours)
    seen = {name: ImagesSeen(images, statistics(cfg, extractor, images, name)) for name, images in sets.items()}
    dense = seen.get("dense")
    scores: dict[str, MetricValues] = {"dense": against(None if dense is None else dense.statistics, reference,
                                                                 settings, further)}
    for name in ("final", "before_healing"):
        scores[name] = scores_of_set(seen.get(name), dense, reference, settings, cfg.evaluate.ssim_window,
                                     cfg.evaluate.batch, how.device, further)
    return scores


def first_ssim(cfg: DictConfig, sets: dict[str, np.ndarray], how: Execution) -> dict[str, list[float]]:
    """{"final", "before_healing": the SSIM to dense of each of the first images}, which a page shows below them."""
    if "dense" not in sets:
        return {}
    return {name: ssim_of_each(images[:FIRST], sets["dense"][:FIRST], cfg.evaluate.ssim_window, how.device)
            for name, images in sets.items() if name != "dense"}


def statistics(cfg: DictConfig, extractor: Extractor, images: np.ndarray, name: str) -> FeatureStatistics:
    """The feature statistics of one set; those of sets that several runs compare with are computed once, into the cache."""
    def computed() -> FeatureStatistics:
        return FeatureStatistics.of(extractor, batches(images, cfg.evaluate.batch), len(images), cfg.evaluate.subset,
                                    TITLES[name])

    if name == "final":
        return computed()
    # What decides the numbers: the images, the feature network, which features are kept, and what it is evaluated with.
    key = {"images": sha256_of(images), "features": extractor.name, **extractor.protocol, "subset": cfg.evaluate.subset,
           **subset_rule(len(images), cfg.evaluate.subset), "batch": cfg.evaluate.batch, **computation(extractor.device)}
    with cache(cfg).entry("portraits", key, ".npz") as path:
        if not path.exists():
            computed().save(path)
        return FeatureStatistics.read(path)


def held_out_losses(cfg: DictConfig, run: Run, how: Execution) -> dict[str, list[float]]:
    """{"dense", "before_healing", "final": its loss on held-out images in each range of timesteps}; empty without any. There
    is no dense model where the run starts from random weights."""
    if not cfg.dataset.held_out:
        return {}
    _, images = parts(cfg, load_images(cfg))
    assert images is not None
    models = {"final": lambda: load_own(cfg, run.final(trains(cfg)))}
    if cfg.model.checkpoint is not None:
        models["dense"] = lambda: load_dense(cfg, run)
    if trains(cfg):
        models["before_healing"] = lambda: load_own(cfg, run.pruned)
    return {name: held_out_loss(load().to(how.device), images, cfg.sampler.batch) for name, load in models.items()}


def sha256_of(images: np.ndarray) -> str:
    """Hex digest of an array of images; one that is mapped from a file is not read into memory."""
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def time_models(cfg: DictConfig, run: Run, how: Execution) -> dict[str, float]:
    """Images per second of the dense and the final model on the run's device, and the speed-up."""
    models = (load_dense(cfg, run), load_own(cfg, run.final(trains(cfg))))
    dense, final = (replace(how, compile="no").for_evaluations(model).unet for model in models)
    with how.autocast():
        return speed(dense, final, min(64, cfg.sampler.batch), evaluations(cfg.sampler))


def protocol(cfg: DictConfig, run: Run, reference: int | None = None) -> dict[str, Any]:
    """What a number must share with another to be compared with it; `reference`: number of images that it compares with."""
    sampler = {("sampler" if name == "name" else name): value for name, value in sampler_options(cfg).protocol().items()}
    subset, last, held_out = cfg.evaluate.subset, run.rounds(cfg.schedule.rounds)[-1], cfg.dataset.held_out
    return sampler | {"images": cfg.evaluate.images, "ema": healing(cfg, last).average if trains(cfg) else None,
                      "ssim_window": cfg.evaluate.ssim_window, "kid_subset": cfg.evaluate.kid_subset,
                      "subset": subset, "neighbours": cfg.evaluate.neighbours, "precision": execution(cfg).precision,
                      **subset_rule(max(cfg.evaluate.images, reference or 0), subset),
                      **({"held_out": held_out} if held_out else {})}
