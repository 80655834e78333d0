"""Parts of a network, by patterns of layer names: which of them are pruned, and at which ratio."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from diffprune.pruning.dependency import scored_weights
from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class Parts:
    """`only`: the layers that may lose out-channels (None: all); `keep`: those that keep theirs; `ratios`: the nominal
    ratios of those that have another than the rest. A pattern is a layer's name, or a module's that holds it, as in
    prune.json, with the wildcards *, ? and [...]. Of several ratios that fit a layer the last counts. Raises ValueError for
    one outside [0, 1)."""
    only: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [f"{pattern}: {ratio:g}" for pattern, ratio in self.ratios.items() if not 0 <= ratio < 1]:
            raise ValueError(f"ratio {wrong[0]} is outside [0, 1)")

    def kept(self, layers: Iterable[str]) -> str | None:
        """The first of the `layers` that keeps its out-channels, and with it the group whose outputs they are; None if there
        is none."""
        return next((layer for layer in layers if fits(layer, self.keep)
                     or (self.only is not None and not fits(layer, self.only))), None)

    def ratio(self, layers: Iterable[str], ratio: float) -> float:
        """The nominal ratio of the group whose outputs are `layers`: the least of theirs, which is `ratio` where no other is
        given."""
        given = [[own for pattern, own in self.ratios.items() if fits(layer, (pattern,))] for layer in layers]
        return min(own[-1] if own else ratio for own in given)

    def check(self, network: nn.Module) -> None:
        """UserError for a pattern that fits no layer of `network`."""
        layers = list(scored_weights(network))
        for option, patterns in (("only", self.only or ()), ("keep", self.keep), ("ratios", self.ratios)):
            for pattern in patterns:
                if not any(fits(layer, (pattern,)) for layer in layers):
                    raise UserError(f"pruner.{option} has {pattern}, which fits no layer of the network: its layers are "
                                    f"called {layers[0]}, …, {layers[len(layers) // 2]}, …, {layers[-1]}")


def fits(layer: str, patterns: Iterable[str]) -> bool:
    """Whether one of the `patterns` is that of the layer or of a module that holds it."""
    return any(fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*") for pattern in patterns)
