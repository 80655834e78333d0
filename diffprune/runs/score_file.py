"""The file scores.safetensors: the names inside it, and what can be read of it without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

METADATA = "about"      # the safetensors metadata entry that holds everything but the tensors, as JSON
TERMS = "terms/"        # tensors terms/<term>/<layer>


@dataclass(frozen=True)
class TimestepLosses:
    """The scoring pass: L_t of every timestep, `loss` [T] float32, and the timesteps whose gradients were summed.

    Those are the first `kept`, down to the `threshold`, unless there is a timestep policy `timesteps` with a weight of each
    timestep, `alpha` [T]. `stops` gives for other thresholds, as text, how many timesteps they would keep.
    """
    loss: np.ndarray
    threshold: float
    kept: int
    stops: Mapping[str, int] = field(default_factory=dict)
    timesteps: str | None = None
    alpha: np.ndarray | None = None


@dataclass(frozen=True)
class ScoreHeader:
    """Everything in the file but the importance terms; `losses` is None for a criterion that needs no gradients."""
    criterion: str
    seconds: float = 0.0
    losses: TimestepLosses | None = None

    @classmethod
    def read(cls, path: Path) -> "ScoreHeader":
        """Reads the metadata and the losses, which are small; no other tensor."""
        with safe_open(path, "numpy") as file:
            metadata = json.loads(file.metadata()[METADATA])
            arrays = {name: file.get_tensor(name) for name in ("loss", "alpha") if name in file.keys()}     # noqa: SIM118
        criterion, seconds = metadata.pop("criterion"), metadata.pop("seconds")
        return cls(criterion, seconds, TimestepLosses(**metadata, **arrays) if arrays else None)

    def metadata(self) -> dict[str, str]:
        losses = vars(self.losses) if self.losses else {}
        own: dict[str, Any] = {name: losses[name] for name in ("threshold", "kept", "stops", "timesteps")
                               if losses.get(name) is not None}
        return {METADATA: json.dumps({"criterion": self.criterion, **own, "seconds": self.seconds})}

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors `loss` and `alpha`, where there are any."""
        losses = vars(self.losses) if self.losses else {}
        return {name: losses[name] for name in ("loss", "alpha") if losses.get(name) is not None}
