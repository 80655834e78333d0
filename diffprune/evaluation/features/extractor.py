"""A network on whose features images are compared."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from diffprune.diffusion.pixels import unit
from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class Extractor:
    """`network`: float images in [0, 1], [B, C, H, W] -> features [B, D]; `protocol`: what it adds to that of a number.

    `head`: features [B, D] -> logits [B, classes], of which the Inception score is made; None for a network without classes.
    `takes`: the one image shape (C, H, W) that the network was made for; None for one that takes every RGB or grey image.
    """
    name: str
    network: nn.Module
    protocol: dict[str, float | str] = field(default_factory=dict)
    takes: tuple[int, int, int] | None = None
    head: Callable[[Tensor], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> Tensor:
        """Features float32 [B, D], on the network's device, of one batch of uint8 `images` [B, H, W, C]."""
        self.check((images.shape[3], *images.shape[1:3]))
        self.network.eval()
        return self.network(unit(images, self.device)).float()

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor | None:
        """Logits [B, classes] of what `features` gave; None for a network without classes."""
        return None if self.head is None else self.head(features)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises UserError for images of a shape (C, H, W) that the network was not made for."""
        if self.takes is not None and shape != self.takes:
            raise UserError(f"{self.name} looks at images of shape {self.takes}, these have {shape}: choose "
                            "other features (evaluate.features)")

    def to(self, device: torch.device) -> "Extractor":
        """The same, computing on `device`."""
        self.network.to(device)
        return self


def module_sha256(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of every weight, in the order of the state."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
