"""Stage 1: the importance terms of every layer, from one walk over the timesteps where the criterion needs gradients."""

import json
import logging
import time
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from diffprune.data import load_images
from diffprune.data.loading.record import note_skipped
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.dense import load_start
from diffprune.models.device import autocast, device_of
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.gradient_cache import StoredWalk
from diffprune.pruning.gradients import Calibration, GradientSum
from diffprune.pruning.importance import Terms, layer_terms
from diffprune.pruning.timesteps import Gate, Policy, gate
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file
from diffprune.tracking.tracker import Tracker

log = logging.getLogger(__name__)

THRESHOLDS = (0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01, 0.005, 0.001)    # those whose stops the paper's authors studied


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `scores.safetensors`: `terms/<term>/<layer>`, and where a walk was made `loss`, with each threshold's stop.

    `alpha` [T], the weights of the timesteps, is there beside the loss where they are not those of the paper's gate.
    """
    start, criterion, model = time.monotonic(), instantiate(cfg.pruner.criterion), load_start(cfg, run)
    tensors, about = {}, {"criterion": cfg.pruner.name}
    if criterion.gradient:
        policy = policy_of(cfg, criterion)
        loss, total, factor = shared_walk(cfg, run, model, criterion, policy)
        gradients = {layer: g * factor for layer, g in total.gradients.items()}
        tensors = {"loss": loss * factor} | flat(layer_terms(model.unet, criterion.terms, gradients))
        kept = int(torch.count_nonzero(total.alpha))
        about |= {"threshold": cfg.pruner.get("threshold", 0.0), "kept": kept,
                  "stops": {f"{T:g}": gate(loss, T) for T in sorted({*THRESHOLDS, cfg.pruner.get("threshold", 0.0)})}}
        if not isinstance(policy, Gate):
            tensors["alpha"] = torch.nn.functional.pad(total.alpha, (0, len(loss) - len(total.alpha)))
            about |= {"threshold": 0.0, "timesteps": str(policy)}
        log.info("%s keeps %d of %d timesteps", policy, kept, len(loss))
    elif cfg.pruner.ratio:
        tensors = flat(layer_terms(model.unet, criterion.terms))
    about["seconds"] = round(time.monotonic() - start, 3)
    write(run.scores, tensors, about)


def write(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    with atomic_file(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial,
                  metadata={"about": json.dumps(about)})


def flat(terms: Terms) -> dict[str, Tensor]:
    """The terms under the names they have in a scores file."""
    return {f"terms/{term}/{layer}": tensor for term, layers in terms.items() for layer, tensor in layers.items()}


def policy_of(cfg: DictConfig, criterion: Criterion) -> Policy:
    """What `pruner.timesteps` asks for, the gate at `pruner.threshold` unless given; UserError for a policy's bad values."""
    if cfg.pruner.timesteps is None:
        return Gate(cfg.pruner.get("threshold", 0.0), criterion.inclusive)
    try:
        return instantiate(cfg.pruner.timesteps, _convert_="all")
    except InstantiationException as error:
        raise UserError(str(error.__cause__ or error)) from error


def shared_walk(cfg: DictConfig, run: Run, model: DiffusionModel, criterion: Criterion,
                policy: Policy) -> tuple[Tensor, GradientSum, float]:
    """Loss, the policy's sum of gradients, and the factor that makes both those of the criterion's loss.

    They come from the cache, or are walked now for all of `pruner.thresholds` too. Raises UserError where the policy
    counts no timestep.
    """
    images = load_images(cfg, run)
    mean_apart, factor = mean_loss_apart(cfg, model, criterion)
    others = [Gate(T, criterion.inclusive) for T in cfg.pruner.thresholds or ()]
    key = {"model": model.key, "data": images.key, "batch": cfg.pruner.calibration_batch, "seed": cfg.seed,
           "precision": cfg.precision, "mean_loss": mean_apart, "per_pass": cfg.pruner.timesteps_per_pass}
    with Cache(Path(cfg.paths.cache)).entry("walks", key, "") as folder:
        device, size = device_of(cfg), cfg.pruner.calibration_batch
        batch, labels = images.calibration(size, cfg.seed), images.calibration_labels(size, cfg.seed)
        note_skipped(run, images.skipped)
        model.to(device)
        with autocast(cfg, device):
            x_0, context = model.to_latent(batch.to(device)), model.context(labels)
            eps = torch.randn(x_0.shape, generator=generator(cfg.seed, Stream.CALIBRATION)).to(device)
            calibration = Calibration(model, x_0, eps, context, mean_apart, cfg.pruner.timesteps_per_pass)
            loss, total = StoredWalk(folder, cfg.pruner.stops_kept).serve(calibration, policy, others)
    if not len(total.alpha):
        raise UserError(f"{policy} counts none of the model's {len(loss)} timesteps: choose others with pruner.timesteps")
    return loss, total, factor


def mean_loss_apart(cfg: DictConfig, model: DiffusionModel, criterion: Criterion) -> tuple[bool, float]:
    """Whether a mean loss needs a walk of its own, and if not by what the summed loss and its gradients are multiplied.

    Dividing by a power of two rounds nothing, so there both are one walk (not in fp16, which underflows).
    """
    numbers = model.shape[0] * model.shape[1] * model.shape[2]
    if not criterion.mean_loss:
        return False, 1.0
    shared = numbers & (numbers - 1) == 0 and cfg.precision != "fp16"
    return not shared, 1.0 / numbers if shared else 1.0
