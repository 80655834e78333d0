"""The same few images at every look at a model in training."""

from pathlib import Path

from omegaconf import DictConfig

from diffprune.models.dense import load_dense
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.sampling.draw import draw
from diffprune.sampling.grid import grid


class Preview:
    """The same few images at every look: the dense model above the one in training, from the same noise."""

    def __init__(self, cfg: DictConfig, count: int = 8) -> None:
        self.cfg, self.indices, self.dense = cfg, range(count), None

    def draw(self, model: DiffusionModel, path: Path) -> None:
        """Writes the grid of `model` as it is now; without a dense checkpoint it has one row."""
        if self.dense is None and self.cfg.model.checkpoint is not None:
            self.dense = draw(load_dense(self.cfg).to(model.device), self.indices, self.cfg)
        rows = [] if self.dense is None else [self.dense]
        grid([*rows, draw(model, self.indices, self.cfg)], path)
