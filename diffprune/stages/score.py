"""Stage 1: the importance terms of every layer, from a scoring pass over the timesteps if the criterion needs gradients."""

import time
from dataclasses import replace

from omegaconf import DictConfig

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.identity import computation
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.gradient_cache import GradientCache
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import loss_scaling, score
from diffprune.pruning.scores import Scores
from diffprune.pruning.timesteps import Threshold
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.stages import options
from diffprune.tracking.tracker import Tracker


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `scores.safetensors`."""
    start, criterion, model = time.monotonic(), options.criterion(cfg), options.load_start(cfg, run)
    options.parts_pruned(cfg).check(model.unet)
    if not criterion.gradient and cfg.pruner.timesteps is not None:
        raise UserError(f"pruner.timesteps says which timesteps' gradients count, and pruner={cfg.pruner.name} takes none: "
                        "leave it out")
    if criterion.gradient:
        scores = score_with_gradients(cfg, run, model, criterion)
    elif cfg.pruner.ratio:
        scores = score(model, criterion, name=cfg.pruner.name)
    else:
        scores = Scores(cfg.pruner.name)
    replace(scores, seconds=round(time.monotonic() - start, 3)).write(run.scores)


def score_with_gradients(cfg: DictConfig, run: Run, model: DiffusionModel, criterion: Criterion) -> Scores:
    """Scores `model` on the calibration batch; the scoring pass is shared by all runs that differ only in their criterion,
    timestep policy and ratio."""
    # Draw the calibration batch, and encode it for a latent model.
    execution, pruner = options.execution(cfg), cfg.pruner
    images, x_0, labels = options.calibration(cfg, run, model, "calibration_batch")
    mean_loss, _ = loss_scaling(model, criterion, execution.precision)
    # What decides the gradients: the model, the images and their noise (from the seed), the loss, how many timesteps are
    # evaluated at once, and what the network is evaluated with.
    key = {"model": model.key, "data": images.key, "batch": len(x_0), "seed": cfg.seed, "mean_loss": mean_loss,
           "per_pass": pruner.timesteps_per_pass,
           **computation(execution.device, execution.precision, execution.memory_format)}
    execution.place(model)
    with execution.autocast():
        x_0, context = model.to_latent(x_0.to(execution.device)), model.context(labels)
    # Score it, with gradients from the cache as far as they are there.
    batch, policy = CalibrationBatch.with_noise(x_0, cfg.seed, context), options.timestep_policy(cfg, criterion)
    later = [Threshold(T, criterion.inclusive) for T in pruner.thresholds or ()]
    with options.cache(cfg).entry("walks", key, "") as folder:
        return score(model, criterion, batch, policy, execution, pruner.timesteps_per_pass,
                     GradientCache(folder, pruner.stops_kept, later), pruner.name)
