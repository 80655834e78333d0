"""What scoring a model gives: importance terms of every layer, and the loss at every timestep."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffprune.models.weights import write_tensors
from diffprune.runs import score_file
from diffprune.runs.score_file import ScoreHeader
from diffprune.runtime.checksums import check

Terms = dict[str, dict[str, Tensor]]    # {term: {layer: [O, I] or [C]}}


@dataclass(frozen=True)
class Scores(ScoreHeader):
    """The `terms` from which every channel can be scored, with the name of the criterion, the losses and the seconds."""
    terms: Terms = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the scores to `path`, by rename."""
        arrays, metadata = self.contents()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        tensors |= {f"{score_file.TERMS}{term}/{layer}": tensor
                    for term, layers in self.terms.items() for layer, tensor in layers.items()}
        write_tensors(path, tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> "Scores":
        """Reads all that `write` wrote; raises Damaged."""
        check(path)
        header, terms = ScoreHeader.read(path), {}
        with safe_open(path, "pt") as file:
            for key in file.keys():     # noqa: SIM118  (a safetensors handle is no mapping)
                if key.startswith(score_file.TERMS):
                    term, layer = key.removeprefix(score_file.TERMS).split("/", 1)
                    terms.setdefault(term, {})[layer] = file.get_tensor(key)
        return cls(**vars(header), terms=terms)
