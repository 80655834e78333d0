"""pytorch-fid's InceptionV3, on whose features published Fréchet distances are computed."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d

from diffprune.evaluation.features.extractor import Extractor, module_sha256
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_file

log = logging.getLogger(__name__)


def inception(weights: str | None) -> Extractor:
    """The pooled 2048 numbers of `original_network`, computed faster.

    The logits leave the last layer's bias out, as the Inception score always has.
    """
    network, state = original_network(weights)
    protocol = {"features_sha256": module_sha256(network)}
    classes = state["fc.weight"].float()
    return Extractor("inception", Pooled(folded(network)), protocol,
                     head=lambda features: F.linear(features, classes.to(features)))


def original_network(weights: str | None) -> tuple[nn.Module, dict[str, Tensor]]:
    """pytorch-fid's network of the pooled 2048 numbers, as it is, and all tensors of its weight file.

    The weights come from a local file or are fetched from pytorch-fid's own address.
    """
    import pytorch_fid.inception as source
    state: dict[str, Tensor] = {}

    def read(url: str, **_: object) -> dict[str, Tensor]:
        state.update(inception_weights(url, weights))
        return state

    with replaced(source, "load_state_dict_from_url", read):
        try:
            return source.InceptionV3([source.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval(), state
        except RuntimeError as error:
            raise UserError(f"evaluate.weights={weights} does not hold pytorch-fid's Inception network") from error


class Pooled(nn.Module):
    """Images in [0, 1], grey ones as three equal channels; the network returns one [B, D, 1, 1] map per requested block."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))[0].flatten(1)


def folded(network: nn.Module) -> nn.Module:
    """The same function with every batch normalisation worked into the convolution before it: fewer passes over memory."""
    blocks: list[Any] = [module for module in network.modules() if isinstance(module, BasicConv2d)]
    for block in blocks:
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return network


@contextmanager
def replaced(module: object, name: str, value: object) -> Generator[None]:
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
    if not is_file(file):
        raise UserError(f"evaluate.weights={path} does not exist: give the file of pytorch-fid's Inception weights")
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"evaluate.weights={path} is not a readable weight file: copy it again") from error
