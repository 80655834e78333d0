"""A walk over the timesteps on disk: the loss at every t, and sums of gradients from which any later sum goes on."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffprune.pruning.gradients import NOTHING, Calibration, GradientSum, trimmed
from diffprune.pruning.timesteps import Policy
from diffprune.runtime.files import atomic_file, remove, sweep_partials

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredWalk:
    """The walk in `folder`, at most `limit` of its sums; only the holder of its lock may use it.

    Every policy shares it: a sum is filed under its alpha, and serves each policy that weighs these timesteps alike.
    """
    folder: Path
    limit: int

    def serve(self, calibration: Calibration, policy: Policy, others: Sequence[Policy] = ()) -> tuple[Tensor, GradientSum]:
        """L_t [T] and the sum of `policy`. What is not there of it and of `others` is walked, in one walk, and kept."""
        sweep_partials(self.folder)
        loss, policies = self.loss(), [policy, *others]
        if loss is None:
            loss, _ = calibration.explore([p for p in policies if type(p) is type(policy) and not p.needs_all], self.keep)
            with atomic_file(self.folder / "loss.safetensors") as partial:
                save_file({"loss": loss}, partial)
        wanted = [trimmed(policy.weights(loss)) for policy in policies]
        for alpha in sorted(wanted, key=len):      # the shorter first: a longer one may go on from it
            if len(alpha) and not self.place(alpha).exists():
                self.keep(self.continued(calibration, alpha))
        self.thin(wanted)
        return loss, self.read(self.place(wanted[0])) if len(wanted[0]) else NOTHING

    def loss(self) -> Tensor | None:
        file = self.folder / "loss.safetensors"
        return load_file(file)["loss"] if file.exists() else None

    def continued(self, calibration: Calibration, alpha: Tensor) -> GradientSum:
        """The sum with weights `alpha`, walked on from the longest stored one that it begins with."""
        starts = [start for start in self.alphas().values()
                  if calibration.continues(alpha, GradientSum(start, {}))]
        longest = max(starts, key=len, default=NOTHING.alpha)
        log.info("the gradients of %d timesteps are there, those up to t = %d are added", len(longest), len(alpha) - 1)
        return calibration.accumulate(alpha, self.read(self.place(longest)) if len(longest) else NOTHING)

    def alphas(self) -> dict[Path, Tensor]:
        """The weights of every stored sum, by file; no gradient is read."""
        found = {}
        for path in sorted(self.folder.glob("sum-*.safetensors")):
            with safe_open(path, "pt") as file:
                found[path] = file.get_tensor("alpha")
        return found

    def place(self, alpha: Tensor) -> Path:
        digest = hashlib.sha256(alpha.numpy().tobytes()).hexdigest()[:8]
        return self.folder / f"sum-{len(alpha):04d}-{digest}.safetensors"

    def read(self, path: Path) -> GradientSum:
        tensors = load_file(path)
        return GradientSum(tensors.pop("alpha"), {name.removeprefix("gradient/"): g for name, g in tensors.items()})

    def keep(self, total: GradientSum) -> None:
        if len(total.alpha) and not self.place(total.alpha).exists():
            gradients = {f"gradient/{layer}": g.contiguous() for layer, g in total.gradients.items()}
            with atomic_file(self.place(total.alpha)) as partial:
                save_file({"alpha": total.alpha.contiguous()} | gradients, partial)

    def thin(self, needed: Sequence[Tensor]) -> None:
        """Deletes sums beyond the limit, none of those `needed` now; first the one that is walked again the fastest."""
        kept, asked = self.alphas(), {self.place(alpha) for alpha in needed}
        while len(kept) > self.limit and (spare := [path for path in kept if path not in asked]):
            cheapest = min(spare, key=lambda path: missing(kept[path], [a for p, a in kept.items() if p != path]))
            remove(cheapest)
            del kept[cheapest]


def missing(alpha: Tensor, others: Sequence[Tensor]) -> int:
    """How many timesteps a walk from the longest of `others` that `alpha` begins with would take."""
    starts = [other for other in others if GradientSum(other, {}).begins(alpha)]
    return int(torch.count_nonzero(alpha[max(map(len, starts), default=0):]))
