"""Stage 1: the importance terms of every layer, from one walk over the timesteps where the criterion needs gradients."""

import json
import logging
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffprune.criteria import Criterion
from diffprune.data import load_images
from diffprune.diffusion import Stream, generator
from diffprune.diffusion_model import DiffusionModel
from diffprune.files import appearing
from diffprune.importance import Terms, gate, layer_terms, walk
from diffprune.models import autocast, device_of, load_dense
from diffprune.run import Cache, Run
from diffprune.track import Tracker

log = logging.getLogger(__name__)

THRESHOLDS = (0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01, 0.005, 0.001)    # those whose stops the paper's authors studied


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `scores.safetensors`: `terms/<term>/<layer>`, and `loss` with each threshold's stop where a walk was made."""
    start, criterion, model = time.monotonic(), instantiate(cfg.pruner.criterion), load_dense(cfg)
    tensors, about = {}, {"criterion": cfg.pruner.name}
    if criterion.gradient:
        stored = shared_walk(cfg, model, criterion)
        wanted = ("loss", *(f"terms/{term}/" for term in criterion.terms))
        tensors = {name: tensor for name, tensor in stored.items() if name.startswith(wanted)}
        threshold = cfg.pruner.get("threshold", 0.0)
        kept = min(gate(tensors["loss"], threshold) + criterion.inclusive, len(tensors["loss"]))
        about |= {"threshold": threshold, "kept": kept,
                  "stops": {f"{T:g}": gate(tensors["loss"], T) for T in sorted({*THRESHOLDS, threshold})}}
        log.info("threshold %g keeps %d of %d timesteps", threshold, about["kept"], len(tensors["loss"]))
    elif cfg.pruner.ratio:
        tensors = flat(layer_terms(model.unet, criterion.terms))
    about["seconds"] = round(time.monotonic() - start, 3)
    write(run.scores, tensors, about)


def write(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    with appearing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial,
                  metadata={"about": json.dumps(about)})


def flat(terms: Terms) -> dict[str, Tensor]:
    """The terms under the names they have in a scores file."""
    return {f"terms/{term}/{layer}": tensor for term, layers in terms.items() for layer, tensor in layers.items()}


def shared_walk(cfg: DictConfig, model: DiffusionModel, criterion: Criterion) -> dict[str, Tensor]:
    """Loss and every gradient term of this (model, batch, noise, threshold), from the cache or walked now."""
    images = load_images(cfg)
    threshold = cfg.pruner.get("threshold", 0.0)
    key = {"model": model.key, "data": images.key, "batch": cfg.pruner.calibration_batch, "seed": cfg.seed,
           "threshold": threshold, "precision": cfg.precision,
           "mean_loss": criterion.mean_loss, "inclusive": criterion.inclusive}
    with Cache(Path(cfg.paths.cache)).entry("walks", key, ".safetensors") as path:
        if not path.exists():
            device, size = device_of(cfg), cfg.pruner.calibration_batch
            batch, labels = images.calibration(size, cfg.seed), images.calibration_labels(size, cfg.seed)
            model.to(device)
            with autocast(cfg, device):
                x_0, context = model.to_latent(batch.to(device)), model.context(labels)
                eps = torch.randn(x_0.shape, generator=generator(cfg.seed, Stream.CALIBRATION)).to(device)
                result = walk(model, x_0, eps, [threshold], criterion.mean_loss, criterion.inclusive, context)
            write(path, {"loss": result.loss} | flat(result.terms[threshold]), {"kept": result.kept[threshold]})
        return load_file(path)
