"""From a model to its scores: a scoring pass where the criterion needs gradients, reduced to importance terms."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.formats.keys import check_finite
from diffprune.pruning.criteria import Criterion, Term, reduce_term
from diffprune.pruning.dependency import scored_weights
from diffprune.pruning.gradient_cache import GradientCache
from diffprune.pruning.gradients import CalibrationBatch, Gradients, GradientSum, ScoringPass
from diffprune.pruning.scores import Scores, Terms
from diffprune.pruning.timesteps import Policy, Threshold, timesteps_kept
from diffprune.runs.score_file import TimestepLosses
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

THRESHOLDS = (0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01, 0.005, 0.001)     # those that the paper's authors studied
DEFAULT_THRESHOLD = 0.05


def score(model: DiffusionModel, criterion: Criterion, batch: CalibrationBatch | None = None, policy: Policy | None = None,
          execution: Execution | None = None, per_evaluation: int | None = None, cache: GradientCache | None = None,
          name: str | None = None) -> Scores:
    """The importance terms that `criterion` reads, of every layer of `model`, and the loss at every timestep.

    A criterion that needs gradients takes a `batch`, a timestep `policy` (the paper's threshold unless given) and where to
    compute (`execution`; on the model's device in float32 unless given, to which model and batch are moved). Gradients come
    from the `cache` as far as it has them. `name` is the criterion's in the file. Raises ValueError without a batch and
    UserError for a policy that counts no timestep.
    """
    name = name or type(criterion).__name__
    if not criterion.gradient:
        return Scores(name, terms=layer_terms(model.unet, criterion.terms, {}))
    if batch is None:
        raise ValueError(f"{type(criterion).__name__} needs gradients: give a batch of images and the noise scheduler")
    policy = policy or Threshold(DEFAULT_THRESHOLD, criterion.inclusive)
    counts_none = UserError(f"{policy} counts none of the model's {model.process.timesteps} timesteps: choose others with "
                            "pruner.timesteps")
    if policy.counts_none(model.process.timesteps):
        raise counts_none
    execution = execution or Execution(model.device)
    # Sum the gradients.
    mean_loss, factor = loss_scaling(model, criterion, execution.precision)
    scoring_pass = ScoringPass(execution.place(model), batch.to(execution.device), mean_loss, per_evaluation)
    with execution.autocast():
        loss, total = cache.sum(scoring_pass, policy) if cache else scoring_pass.sum(policy)
    model.unet.zero_grad()
    if not len(total.alpha):
        raise counts_none
    # Reduce them to terms.
    terms = layer_terms(model.unet, criterion.terms, total.gradients, factor)
    return Scores(name, losses=summary(loss * factor, total, policy), terms=terms)


def loss_scaling(model: DiffusionModel, criterion: Criterion, precision: str) -> tuple[bool, float]:
    """Whether the scoring pass is made with the mean loss, and the factor that its loss and gradients are multiplied by.

    Where the mean divides by a power of two, which rounds nothing, it is the pass with the summed loss that is scaled, so
    that all criteria share one pass (not in fp16, which underflows).
    """
    if not criterion.mean_loss:
        return False, 1.0
    numbers = model.shape[0] * model.shape[1] * model.shape[2]
    shared = numbers & (numbers - 1) == 0 and precision != "fp16"
    return not shared, 1.0 / numbers if shared else 1.0


def summary(loss: Tensor, total: GradientSum, policy: Policy) -> TimestepLosses:
    """What the scores file says of the scoring pass; the weights alpha are listed where the policy is not a threshold."""
    kept, own = int(torch.count_nonzero(total.alpha)), {policy.threshold} if isinstance(policy, Threshold) else set()
    log.info("%s keeps %d of %d timesteps", policy, kept, len(loss))
    stops = {f"{T:g}": timesteps_kept(loss, T) for T in sorted(own.union(THRESHOLDS))}
    if isinstance(policy, Threshold):
        return TimestepLosses(loss.numpy(), policy.threshold, kept, stops)
    alpha = np.pad(total.alpha.numpy(), (0, len(loss) - len(total.alpha)))
    return TimestepLosses(loss.numpy(), 0.0, kept, stops, str(policy), alpha)


def layer_terms(unet: nn.Module, terms: Mapping[str, Term], gradients: Gradients | None = None,
                factor: float = 1.0) -> Terms:
    """The `terms` of every scored layer's weight, on the CPU, from `factor` times the gradients that lie in `unet`, or those
    given, which are taken out of `gradients` one by one. A layer without gradient counts as one with gradient zero."""
    reduced: dict[str, dict[str, Tensor]] = {name: {} for name in terms}
    with torch.no_grad():
        for layer, w in scored_weights(unet).items():
            g = w.grad if gradients is None else gradients.pop(layer, None)
            g = torch.zeros_like(w) if g is None else g.to(w.device) * factor
            for name, term in terms.items():
                reduced[name][layer] = reduce_term(term, w, g).cpu()
    for tensors in reduced.values():
        check_finite(tensors, "the importance of these layers overflows; try precision=fp32")
    return reduced
