"""`diffprune.prune`: pruning a model that one already holds."""

import copy
from dataclasses import dataclass

from torch import Tensor

from diffprune.api.held import Held, gradients_aside, left_as_found, mistakes_as_value_errors, model_of
from diffprune.api.images import Data, check_images, image_set
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.family import TextFamily, check_blocks, predictors
from diffprune.models.formats.keys import check_finite
from diffprune.models.network import config_of
from diffprune.models.widths import note_widths
from diffprune.pruning import compensation
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.compensation import NoisedImages, positions
from diffprune.pruning.criteria import Criterion, DiffPruning, FirstOrderTaylor, Magnitude, Random, SecondOrderTaylor
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import DEFAULT_THRESHOLD, score
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.surgery import cut, fixed_layers
from diffprune.pruning.timesteps import Policy, Threshold
from diffprune.runtime.errors import UserError

# The criteria that a name means, as `pruner=` of a run, with the threshold up to which timesteps count.
CRITERIA: dict[str, tuple[type[Criterion], float]] = {
    "diff_pruning": (DiffPruning, DEFAULT_THRESHOLD), "taylor": (DiffPruning, 0.0),
    "first_order_taylor": (FirstOrderTaylor, 0.0), "second_order_taylor": (SecondOrderTaylor, 0.0),
    "magnitude": (Magnitude, 0.0), "random": (Random, 0.0)}


def prune(held: Held, ratio: float | None = None, criterion: str | Criterion = "diff_pruning", data: Data | None = None,
          scheduler: object = None, *, context: Tensor | None = None, timesteps: Policy | None = None,
          execution: Execution | None = None, seed: int = 0, allocation: Allocation | None = None, compensate: bool = False,
          calibration_batch: int = 128, compensation_images: int = 512) -> PruneReport:
    """Prunes, in place, the denoiser of a diffusers pipeline, or a UNet or transformer, and returns the sizes it reached.

    `ratio` in [0, 1) is the nominal ratio; for other options give an `allocation`, which contains it, instead. The
    `criterion` is one of CRITERIA by name, or an object. One that needs gradients takes `data`: a batch of images
    [B, C, H, W] in [-1, 1], all of which are scored, or a data set, a folder of images or "shipped:digits", of which
    `calibration_batch` are. A network without its pipeline takes the noise `scheduler` that it was trained with too, a
    latent one latents, and one that is conditional the `context` [B, L, D] of a batch. `timesteps` is a policy; unless given
    that of the criterion's name, or for an object the paper's at threshold 0.05. `execution` says where and how precisely to
    compute, `seed` draws the noise and a random criterion's scores. `compensate` refits each layer that lost inputs to the
    dense layer's outputs, on the same batch or on `compensation_images` of the data set.

    Modes, requires_grad, gradients (of the channels that are left) and the random state stay those of before, also after an
    error. Raises ValueError, before the network is scored, for an argument that is missing or out of range, a model that
    does not predict noise by the betas of a DDPM and weights that are NaN or infinite; and where losses are.
    """
    with mistakes_as_value_errors():
        allocation = allocation_of(ratio, allocation)
        criterion, timesteps = criterion_of(criterion, timesteps)
        model = model_of(held, scheduler)
        needs = [f"{type(criterion).__name__} needs gradients"] * criterion.gradient
        needs += ["compensation refits layers on noised images"] * compensate
        if needs and (data is None or (scheduler is None and model.unet is held)):
            raise UserError(f"{needs[0]}: give data, and for a network without its pipeline the noise scheduler")
        check_network(model)
        allocation.parts.check(model.unet)
        images, batch = None, None
        if data is not None:
            images = CalibrationImages(data, context, seed, calibration_batch, compensation_images if compensate else 0)
            batch = images.batch(model)
        with left_as_found(model):
            with gradients_aside(model.unet):
                terms = score(model, criterion, batch, timesteps, execution).terms if allocation.ratio else {}
            if compensate and images is not None:
                report = cut_and_compensate(model, criterion, allocation, terms, seed, images)
            else:
                report = cut(model.unet, criterion, allocation, terms, seed)
            note_widths(model.unet)
        return report


def allocation_of(ratio: float | None, allocation: Allocation | None) -> Allocation:
    if (ratio is None) == (allocation is None):
        raise UserError("give either a ratio or an allocation")
    return allocation or Allocation(ratio or 0.0)


def criterion_of(criterion: str | Criterion, timesteps: Policy | None) -> tuple[Criterion, Policy]:
    """The criterion and the timesteps that count, of a name or of an object; UserError for anything else."""
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise UserError(f"criterion={criterion!r} is not known: choose one of {', '.join(CRITERIA)}, or a Criterion")
        kind, threshold = CRITERIA[criterion]
        return kind(), timesteps or Threshold(threshold)
    if not isinstance(criterion, Criterion):
        raise UserError(f"criterion={criterion!r} is no Criterion: give an object of one, or a name "
                        f"({', '.join(CRITERIA)})")
    return criterion, timesteps or Threshold(DEFAULT_THRESHOLD, criterion.inclusive)


def check_network(model: DiffusionModel) -> None:
    """UserError where pruning would not know how to narrow the network, or where its weights are not finite."""
    kind = type(model.unet)
    if kind.__module__.startswith("diffusers.") and kind.__name__ not in predictors():
        raise UserError(f"{kind.__name__} belongs to no family of models that is known here: give one of "
                        f"{', '.join(predictors())}")
    check_blocks(model.unet)
    check_finite(model.unet.state_dict())
    try:
        fixed_layers(model.unet)
    except ValueError as error:
        raise UserError(f"{error}: give a UNet or a transformer of diffusers") from error


def cut_and_compensate(model: DiffusionModel, criterion: Criterion, allocation: Allocation, terms: dict, seed: int,
                       images: "CalibrationImages") -> PruneReport:
    x_0, context = images.for_compensation(model)
    dense, kept = copy.deepcopy(model), positions(model.unet)
    report = cut(model.unet, criterion, allocation, terms, seed, kept=kept)
    compensation.compensate(model, dense, kept, NoisedImages.draw(dense, x_0, seed, context))
    return report


@dataclass(frozen=True)
class CalibrationImages:
    """The images of `data` on which a model is scored, and those on which it is compensated (0: not at all)."""
    data: Data
    context: Tensor | None
    seed: int
    count: int
    compensation_count: int

    def batch(self, model: DiffusionModel) -> CalibrationBatch:
        """What `model` is scored on. UserError where the data does not fit it, or is too little for what comes later."""
        x_0, context = self.drawn(model, self.count)
        if self.compensation_count and not isinstance(self.data, Tensor):
            image_set(self.data, model.image_shape).check_count(self.compensation_count, "compensation_images")
        return CalibrationBatch.with_noise(x_0, self.seed, context)

    def for_compensation(self, model: DiffusionModel) -> tuple[Tensor, Tensor | None]:
        """Clean images or latents [N, C, H, W] and their context, on the model's device."""
        return self.drawn(model, self.compensation_count)

    def drawn(self, model: DiffusionModel, count: int) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.data, Tensor):
            check_batch(model, self.data, self.context)
            x_0, labels = self.data, None
        else:
            if self.context is not None:
                raise UserError("a context belongs to a batch of images: leave it out, or give a batch")
            images = image_set(self.data, model.image_shape)
            if isinstance(model.family, TextFamily):
                model.family.prompts = images.captions
            model.check_classes(images.labels, images.class_count)
            x_0, labels = images.calibration(count, self.seed), images.calibration_labels(count, self.seed)
        context = self.context.to(model.device) if self.context is not None else model.context(labels)
        return model.to_latent(x_0.to(model.device)), context


def check_batch(model: DiffusionModel, images: Tensor, context: Tensor | None) -> None:
    """UserError where a batch of images, or its context, is not what the model takes."""
    check_images(images)
    config = config_of(model.unet)
    channels = model.image_shape[0] if model.family.networks else config["in_channels"]
    if images.shape[1] != channels:
        raise UserError(f"images have {images.shape[1]} channels, the model takes {channels}: give others")
    width = config.get("cross_attention_dim")
    if context is None and width is not None and model.classes is None:
        raise UserError(f"the network is conditional: give the context [B, L, {width}] of the images")
    if context is not None and (context.dim() != 3 or len(context) != len(images) or context.shape[2] != width):
        raise UserError(f"context is of shape {list(context.shape)}: give [{len(images)}, L, {width}]"
                        if width else "the network takes no context: leave it out")
