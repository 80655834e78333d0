"""`diffprune.evaluate`: drawing and scoring the images of a model that one already holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diffprune.api.held import Held, left_as_found, mistakes_as_value_errors, model_of
from diffprune.api.images import Data, image_set
from diffprune.diffusion.pixels import batches
from diffprune.evaluation.comparison import ImagesSeen, scores_of_set
from diffprune.evaluation.feature_statistics import FeatureStatistics, subset_rule
from diffprune.evaluation.features import EXTRACTORS, load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.set_metrics import Settings
from diffprune.models.cost import measure
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.errors import UserError
from diffprune.runtime.progress import progress
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions

BATCH = 256                     # images that are drawn and looked at together
SUBSET = 10_000                 # images of each set that KID, precision and recall compare
SETTINGS = Settings(kid_subset=1000, neighbours=3)
WINDOW = 11                     # pixels of SSIM's window, fewer where the images are smaller


@dataclass(frozen=True)
class Evaluation:
    """What a model was measured to be: parameters, multiply-accumulates of one evaluation of one image, and its `scores` as
    metrics.json has them, on `features` of so many `images`; only numbers of one `protocol` compare."""
    params: int
    macs: int
    images: int
    features: str
    scores: Mapping[str, float | None]
    protocol: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items() if value is not None)
        return (f"Evaluation({self.params / 1e6:.3g} M parameters, {self.macs / 1e9:.3g} G MACs, {self.images} images, "
                f"{self.features}: {known})")


def evaluate(held: Held, data: Data, images: int, steps: int | None = None, scheduler: object = None, *, features: str,
             weights: str | None = None, dense: Held | None = None, sampler: SamplerOptions | None = None,
             execution: Execution | None = None) -> Evaluation:
    """Draws `images` images, number i from the noise of index i, and scores them as a run's last stage does.

    They are compared with all of `data` (as `diffprune.finetune` takes it) on `features` ("digits-cnn", "cifar-cnn",
    "inception", "dinov2"; `weights` is a local file of theirs), and with the images of the `dense` model where it is given.
    `steps` are DDIM's, evenly spaced; for other options give a `sampler`, which contains them, instead.

    Nothing of the models changes. Raises ValueError, before an image is drawn, for an argument that is missing or out of
    range.
    """
    with mistakes_as_value_errors():
        sampler = sampler_of(steps, sampler)
        model, reference = model_of(held, scheduler), None if dense is None else model_of(dense, scheduler)
        check(model, images, sampler, features)
        if reference is not None and reference.image_shape != model.image_shape:
            raise UserError(f"the dense model draws images of shape {reference.image_shape}, the model {model.image_shape}: "
                            "give the dense model that it was pruned from")
        data_set, execution = image_set(data, model.image_shape), execution or Execution(model.device)
        with left_as_found(model), left_as_found(reference or model):
            extractor = load_extractor(features, weights).to(execution.device)
            extractor.check(model.image_shape)
            seen_data = FeatureStatistics.of(extractor, data_set.chunks(BATCH), len(data_set), SUBSET, "data")
            own = seen(model, images, sampler, execution, extractor, "model")
            seen_dense = None if reference is None else seen(reference, images, sampler, execution, extractor, "dense model")
            window = fitting_window(model)
            scores = scores_of_set(own, seen_dense, seen_data, SETTINGS, window, BATCH, execution.device)
            cost = measure(model.unet)
        protocol = sampler.protocol() | extractor.protocol | {
            "images": images, "reference_key": data_set.key, "ssim_window": window, "precision": execution.precision,
            "subset": SUBSET, **asdict(SETTINGS), **subset_rule(max(images, len(data_set)), SUBSET)}
        return Evaluation(cost.params, cost.macs, images, extractor.name, scores, protocol)


def sampler_of(steps: int | None, sampler: SamplerOptions | None) -> SamplerOptions:
    if (steps is None) == (sampler is None):
        raise UserError("give either a number of steps or a sampler")
    return sampler or SamplerOptions(steps or 0)


def check(model: DiffusionModel, images: int, sampler: SamplerOptions, features: str) -> None:
    """UserError where such images cannot be drawn, or not be scored."""
    if features not in EXTRACTORS:
        raise UserError(f"features={features!r} are not known: choose one of {', '.join(EXTRACTORS)}")
    if images < 2:
        raise UserError(f"images={images}: a distance between sets takes at least 2 of each")
    if not 1 <= sampler.steps <= model.process.timesteps:
        raise UserError(f"steps={sampler.steps} is outside 1 … {model.process.timesteps}, the model's timesteps: give "
                        "another number")
    sampler.check(model, "the pipeline's")
    if sampler.guidance is not None and (model.classes is None or not model.family.has_unconditional):
        raise UserError("the sampler has a guidance and the model knows no label of no class: leave it out")


def seen(model: DiffusionModel, count: int, sampler: SamplerOptions, execution: Execution, extractor: Extractor,
         what: str) -> ImagesSeen:
    """The model's first `count` images, and their feature statistics."""
    ready, starts = execution.for_evaluations(model), range(0, count, BATCH)
    images = np.concatenate([draw(ready, range(start, min(start + BATCH, count)), sampler, execution)
                             for start in progress(starts, f"drawing, {what}", len(starts))])
    return ImagesSeen(images, FeatureStatistics.of(extractor, batches(images, BATCH), count, SUBSET, what))


def fitting_window(model: DiffusionModel) -> int:
    """WINDOW, or the largest odd number of pixels below it that fits the model's images."""
    side = min(model.image_shape[1:])
    return min(WINDOW, side - 1 + side % 2)
