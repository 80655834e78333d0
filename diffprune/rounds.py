"""Pruning in several rounds: what of the ratio and of the healing belongs to each."""

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Round:
    """The `index`-th (1, 2, …) of the `of` times that a run scores, prunes and heals."""
    index: int = 1
    of: int = 1

    last = property(lambda self: self.index == self.of)

    def ratio(self, total: float) -> float:
        """The nominal ratio in [0, 1), of the dense model's widths, that is reached at the end of this round."""
        return total if self.last else total * self.index / self.of     # not r * k / k, which is not always r

    def steps_before(self, total: int) -> int:
        """How many of `total` healing steps the rounds before have taken."""
        return total * (self.index - 1) // self.of

    def healing(self, cfg: DictConfig) -> DictConfig:
        """`cfg` with this round's own steps: learning rate and moving average run over them from the start."""
        total = cfg.schedule.steps
        own = total * self.index // self.of - self.steps_before(total)
        return OmegaConf.merge(cfg, {"schedule": {"steps": own}})

    def __str__(self) -> str:
        """What is said of it after a stage's name; nothing where there is one alone."""
        return "" if self.of == 1 else f", round {self.index} of {self.of}"
