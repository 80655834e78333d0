"""`diffprune.prune`: pruning a denoiser that one already holds."""

import copy
import logging

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.family import check_blocks
from diffprune.models.formats.keys import check_finite
from diffprune.pruning import compensation
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.compensation import NoisedImages, positions
from diffprune.pruning.criteria import Criterion, DiffPruning
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import score
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.surgery import cut
from diffprune.pruning.timesteps import Policy
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

LATENT_LIMIT = 30.0     # latents have about unit variance; pixels that were not scaled reach 255


def prune(unet: nn.Module, ratio: float | None = None, criterion: Criterion | None = None, images: Tensor | None = None,
          scheduler: DDIMScheduler | None = None, *, context: Tensor | None = None, timesteps: Policy | None = None,
          execution: Execution | None = None, seed: int = 0, allocation: Allocation | None = None,
          compensate: bool = False) -> PruneReport:
    """Prunes the denoiser `unet` in place and returns the sizes that were reached.

    `ratio` in [0, 1) is the nominal ratio; for other options give an `allocation`, which contains it, instead. The criterion
    is Diff-Pruning unless given. One that needs gradients takes a batch of `images` [B, C, H, W] in [-1, 1] (latents of a
    latent model), the noise `scheduler` that the UNet was trained with, the `context` [B, L, D] of a conditional model, and
    a timestep policy (the paper's at threshold 0.05 unless given). `execution` says where and how precisely to compute,
    `seed` draws the noise and a random criterion's scores. `compensate` refits, on the same `images`, each layer that lost
    inputs to the dense layer's outputs; several hundred images are better for that than the few that scoring needs. Raises
    ValueError where one of them is missing or out of range, where the model does not predict noise by the betas of a DDPM,
    and where weights or losses are NaN or infinite.
    """
    if (ratio is None) == (allocation is None):
        raise ValueError("give either a ratio or an allocation")
    allocation = allocation or Allocation(ratio or 0.0)
    criterion = criterion or DiffPruning()
    if criterion.gradient and (images is None or scheduler is None):
        raise ValueError(f"{type(criterion).__name__} needs gradients: give a batch of images and the noise scheduler")
    if compensate and (images is None or scheduler is None):
        raise ValueError("compensation refits layers on noised images: give a batch of images and the noise scheduler")
    if images is not None:
        check_images(images)
    try:
        check_blocks(unet)
        check_finite(unet.state_dict())
        model = DiffusionModel(unet, scheduler or DDIMScheduler())
        batch = None if images is None else CalibrationBatch.with_noise(images, seed, context)
        terms = score(model, criterion, batch, timesteps, execution).terms if allocation.ratio else {}
        if not compensate or images is None:
            return cut(unet, criterion, allocation, terms, seed)
        dense, kept = copy.deepcopy(model), positions(unet)
        context = None if context is None else context.to(model.device)
        report = cut(unet, criterion, allocation, terms, seed, kept=kept)
        compensation.compensate(model, dense, kept, NoisedImages.draw(dense, images.to(model.device), seed, context))
        return report
    except UserError as error:
        raise ValueError(str(error)) from error


def check_images(images: Tensor) -> None:
    """ValueError where `images` are no batch of floats on the scale of images in [-1, 1] or of a model's latents."""
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} of shape {list(images.shape)}: give floats [B, C, H, W] in [-1, 1], "
                         "which bytes become by images / 127.5 - 1")
    low, high = images.aminmax()
    if not -LATENT_LIMIT <= low <= high <= LATENT_LIMIT:
        raise ValueError(f"images lie between {low:g} and {high:g}: give them in [-1, 1], or the scaled latents of a latent "
                         "model")
    if low >= 0:
        log.warning("images lie between %g and %g, and models are trained on images in [-1, 1], black at -1", low, high)
