"""The file scores.safetensors: the names inside it, and what can be read of it without torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from diffprune.runtime.errors import Damaged

METADATA = "about"      # the safetensors metadata entry that holds everything but the tensors, as JSON
DIGEST = "sha256"       # the entry with the checksum of that and of the losses
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
        """Reads the metadata and the losses, which are small and have a checksum of their own; no other tensor. Raises
        Damaged."""
        path.open("rb").close()     # so that the system's own error is raised where it refuses to read
        try:
            with safe_open(path, "numpy") as file:
                stored = file.metadata()
                arrays = {name: file.get_tensor(name) for name in ("loss", "alpha") if name in file.keys()}     # noqa: SIM118
            metadata = json.loads(stored[METADATA])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path} is no readable scores file ({error}): delete it and repeat the command") from error
        if stored.get(DIGEST, own := digest(stored[METADATA], arrays)) != own:
            raise Damaged(f"{path} differs from its checksum: it is damaged, delete it and repeat the command")
        criterion, seconds = metadata.pop("criterion"), metadata.pop("seconds")
        return cls(criterion, seconds, TimestepLosses(**metadata, **arrays) if arrays else None)

    def contents(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The tensors `loss` and `alpha`, where there are any, and the metadata, as they are in the file."""
        losses = {name: value for name, value in vars(self.losses).items() if value is not None} if self.losses else {}
        arrays = {name: losses.pop(name) for name in ("loss", "alpha") if name in losses}
        text = json.dumps({"criterion": self.criterion, **losses, "seconds": self.seconds})
        return arrays, {METADATA: text, DIGEST: digest(text, arrays)}


def digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hex, of the metadata and the losses."""
    sha256 = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        sha256.update(name.encode() + array.tobytes())
    return sha256.hexdigest()
