"""DINOv2, a self-supervised vision transformer whose features follow human judgement more closely (Stein et al. 2023)."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffprune.evaluation.features.extractor import Extractor, module_sha256
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_folder

log = logging.getLogger(__name__)

HUB = "facebook/dinov2-large"
SIDE = 224                                                              # pixels that the network looks at
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)                # of ImageNet's pixels, in [0, 1]


def dinov2(weights: str | None) -> Extractor:
    """The class token after the last normalisation (1024 numbers for the large network).

    `weights` is a folder in the `transformers` layout or a hub name; None fetches the large network of the published
    comparisons. Raises UserError when it cannot be had.
    """
    from transformers import Dinov2Model
    place = weights or HUB
    local = Path(place).expanduser()
    if not is_folder(local):
        if weights is not None and exists(local):
            raise UserError(f"evaluate.weights={weights} is a file: give the folder with its config.json")
        log.info("fetching %s (the large network is about 1.2 GB) from the Hugging Face hub; "
                 "evaluate.weights=<folder> uses a local copy", place)
    try:
        network = Dinov2Model.from_pretrained(local if is_folder(local) else place, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no DINOv2 network could be loaded from {place} ({type(error).__name__}): "
                        "give a local folder with evaluate.weights=<folder>") from error
    return Extractor("dinov2", ClassToken(network), {"features_sha256": module_sha256(network)})


class ClassToken(nn.Module):
    """Images in [0, 1] of any size, grey ones as three equal channels -> the normalised class token [B, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((resized.expand(-1, 3, -1, -1) - self.mean) / self.std).pooler_output
