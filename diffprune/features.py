"""Networks on whose features images are compared."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffprune.digits_cnn import load_digits_cnn
from diffprune.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extractor:
    """`network`: float images in [0, 1], [B, C, H, W] -> features [B, D]; `about` is part of every number's protocol."""
    name: str
    network: nn.Module
    about: dict[str, float | str] = field(default_factory=dict)

    def of(self, images: np.ndarray, batch: int) -> np.ndarray:
        """Features float32 [N, D] of uint8 `images` [N, H, W, C]; only one batch is in memory at a time."""
        self.network.eval()
        device = next(self.network.parameters()).device
        with torch.no_grad():
            return np.concatenate([self.network(unit(images[start:start + batch], device)).cpu().numpy()
                                   for start in range(0, len(images), batch)])


def unit(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, C] as float32 [B, C, H, W] in [0, 1], on `device`."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 255


def digits_cnn(weights: str | None) -> Extractor:
    """The digit classifier's penultimate layer, 64 numbers."""
    network, accuracy = load_digits_cnn(weights)
    return Extractor("digits-cnn", network, {"features_accuracy": accuracy})


def inception(weights: str | None) -> Extractor:
    """pytorch-fid's InceptionV3, 2048 numbers, from a local weight file or fetched from its own address."""
    import pytorch_fid.inception as source
    with replaced(source, "load_state_dict_from_url", lambda url, **_: inception_weights(url, weights)):
        try:
            network = source.InceptionV3([source.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
        except RuntimeError as error:
            raise UserError(f"evaluate.weights={weights} does not hold pytorch-fid's Inception network") from error
    return Extractor("inception", Flat(network), {"features_sha256": module_sha256(network)})


class Flat(nn.Module):
    """pytorch-fid's network returns one [B, D, 1, 1] map per requested block."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0].flatten(1)


@contextmanager
def replaced(module: object, name: str, value: object) -> Iterator[None]:
    """Swaps an attribute for a while: pytorch-fid's network downloads inside its constructor and takes no file."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def inception_weights(url: str, path: str | None) -> dict[str, Tensor]:
    """The weights in `path` (.pth or .safetensors), or fetched from `url` and checked against the hash in its name."""
    if path is None:
        log.info("fetching Inception weights from %s (about 91 MB); evaluate.weights=<file> uses a local copy", url)
        try:
            return torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(f"the Inception weights could not be fetched from {url} ({type(error).__name__}): "
                            "give a local copy with evaluate.weights=<file>") from error
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"evaluate.weights={path} does not exist: give the file of pytorch-fid's Inception weights")
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"evaluate.weights={path} is not a readable weight file: copy it again") from error


def module_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


EXTRACTORS: dict[str, Callable[[str | None], Extractor]] = {"digits-cnn": digits_cnn, "inception": inception}


def load_extractor(name: str, weights: str | None) -> Extractor:
    """The extractor `name`, its weights from a local file where one is given; raises UserError when they cannot be had."""
    return EXTRACTORS[name](weights)
