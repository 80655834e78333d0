"""The same few images of a model in training, drawn every now and then."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.sampling.draw import draw
from diffprune.sampling.grid import grid
from diffprune.sampling.protocol import SamplerOptions


class Preview:
    """Images 0 … `count` - 1 of the dense model above those of the model in training, from the same noise.

    `load_dense` loads the dense model, at the first preview; None where there is none.
    """

    def __init__(self, options: SamplerOptions, execution: Execution, load_dense: Callable[[], DiffusionModel] | None,
                 count: int = 8) -> None:
        self.options, self.execution, self.load_dense, self.indices = options, execution, load_dense, range(count)
        self.dense: list[np.ndarray] = []

    def draw(self, model: DiffusionModel, path: Path) -> None:
        """Writes the grid of images of `model` as it is now to the PNG file `path`."""
        if self.load_dense is not None and not self.dense:
            self.dense = [self.images(self.load_dense().to(model.device))]
        grid([*self.dense, self.images(model)], path)

    def images(self, model: DiffusionModel) -> np.ndarray:
        return draw(model, self.indices, self.options, self.execution)
