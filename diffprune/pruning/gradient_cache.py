"""The gradient cache: a scoring pass on disk, from which later timestep policies continue."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffprune.models.weights import write_tensors
from diffprune.pruning.gradients import EMPTY, GradientSum, ScoringPass, begins_with, trimmed
from diffprune.pruning.timesteps import Policy
from diffprune.runtime.checksums import discard, intact
from diffprune.runtime.files import remove, sweep_partials

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradientCache:
    """The losses and at most `limit` sums of gradients of one scoring pass in `folder`, whose lock the user must hold.

    All policies share it: a sum is filed under its weights alpha, and serves every policy that gives these. The policies
    `later` are expected too, and their sums are made in the same pass.
    """
    folder: Path
    limit: int = 8
    later: Sequence[Policy] = ()

    def sum(self, scoring_pass: ScoringPass, policy: Policy) -> tuple[Tensor, GradientSum]:
        """L_t [T] and the sum of `policy`, as `ScoringPass.sum` gives them; only what the cache lacks is computed."""
        sweep_partials(self.folder)
        policies = [policy, *self.later]
        # One pass over all timesteps gives the losses, and the sums of all policies of one kind.
        file = self.folder / "loss.safetensors"
        if not intact(file):
            alike = [p for p in policies if type(p) is type(policy) and not p.needs_all_losses]
            loss = scoring_pass.run(alike, self.keep)
            write_tensors(file, {"loss": loss})
        loss = load_file(file)["loss"]
        # Sums that are still missing continue from kept ones; the shorter first, since a longer one may continue from it.
        needed = [trimmed(policy.weights(loss)) for policy in policies]
        for alpha in sorted(needed, key=len):
            if not len(alpha) or intact(self.path(alpha)):
                continue
            starts = [kept for kept in self.kept().values() if scoring_pass.can_continue(kept, alpha)]
            longest = next((kept for kept in sorted(starts, key=len, reverse=True) if intact(self.path(kept))), EMPTY.alpha)
            log.info("continuing from the gradients of %d timesteps, up to t = %d", len(longest), len(alpha) - 1)
            self.keep(scoring_pass.accumulate(alpha, self.read(longest)))
        self.evict(needed)
        return loss, self.read(needed[0])

    def kept(self) -> dict[Path, Tensor]:
        """The weights of every sum that is kept, by file; no gradient is read, and a file of other weights is discarded."""
        weights = {}
        for path in sorted(self.folder.glob("sum-*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    alpha = file.get_tensor("alpha")
            except OSError:     # it cannot be read at the moment, which says nothing of its content
                continue
            except SafetensorError:
                alpha = EMPTY.alpha
            if self.path(alpha) == path:
                weights[path] = alpha
            else:
                discard(path)
        return weights

    def path(self, alpha: Tensor) -> Path:
        digest = hashlib.sha256(alpha.numpy().tobytes()).hexdigest()[:8]
        return self.folder / f"sum-{len(alpha):04d}-{digest}.safetensors"

    def read(self, alpha: Tensor) -> GradientSum:
        """The kept sum with weights `alpha`."""
        if not len(alpha):
            return EMPTY
        tensors = load_file(self.path(alpha))
        return GradientSum(tensors.pop("alpha"), {name.removeprefix("gradient/"): g for name, g in tensors.items()})

    def keep(self, total: GradientSum) -> None:
        if len(total.alpha) and not self.path(total.alpha).exists():
            gradients = {f"gradient/{layer}": gradient for layer, gradient in total.gradients.items()}
            write_tensors(self.path(total.alpha), {"alpha": total.alpha} | gradients)

    def evict(self, needed: Sequence[Tensor]) -> None:
        """Deletes sums beyond the limit, those first that take the fewest timesteps to make again, and none of `needed`."""
        kept, protected = self.kept(), {self.path(alpha) for alpha in needed}
        while len(kept) > self.limit and (removable := [path for path in kept if path not in protected]):
            cheapest = min(removable, key=lambda path: missing(kept[path], [a for p, a in kept.items() if p != path]))
            remove(cheapest)
            del kept[cheapest]


def missing(alpha: Tensor, others: Sequence[Tensor]) -> int:
    """How many timesteps the sum with weights `alpha` takes when continued from the longest of `others` it begins with."""
    start = max((len(other) for other in others if begins_with(alpha, other)), default=0)
    return int(torch.count_nonzero(alpha[start:]))
