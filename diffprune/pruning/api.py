"""Pruning a denoiser that one already holds."""

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.model_folder import DiffusionModel
from diffprune.pruning import criteria
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.importance import layer_terms, walk
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import Selection
from diffprune.pruning.surgery import cut


def prune(unet: nn.Module, ratio: float, criterion: Criterion | None = None, images: Tensor | None = None,
          scheduler: SchedulerMixin | None = None, threshold: float = 0.05, seed: int = 0,
          selection: Selection | None = None, heads: str = "equal", round_to: int | None = None, scope: str = "local",
          floor: float = 0.1) -> PruneReport:
    """Prunes a UNet in place, scores included: Diff-Pruning at `threshold` unless another `criterion` is given.

    `ratio` in [0, 1) is nominal: read the sizes that were reached from the result. A criterion that needs gradients
    takes `images`, a batch [B, C, H, W] in [-1, 1], and the `scheduler` whose alpha_bar the UNet was trained with.
    Raises ValueError where one of them is missing or `ratio` is out of range.
    """
    criterion = criterion or criteria.DiffPruning()
    if not criterion.gradient:
        return cut(unet, criterion, ratio, layer_terms(unet, criterion.terms), seed, selection, heads, round_to, scope,
                   floor)
    if images is None or scheduler is None:
        raise ValueError(f"{type(criterion).__name__} needs gradients: give a batch of images and the noise scheduler")
    eps = torch.randn(images.shape, generator=generator(seed, Stream.CALIBRATION)).to(images.device)
    terms = walk(DiffusionModel(unet, scheduler), images, eps, [threshold], criterion.mean_loss,
                 criterion.inclusive).terms[threshold]
    unet.zero_grad()
    return cut(unet, criterion, ratio, terms, seed, selection, heads, round_to, scope, floor)
