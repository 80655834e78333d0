"""Small classifiers whose features score images: weight files with the accuracy that was measured."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file

SHIPPED = Path(__file__).parents[2] / "assets"


class Classifier(nn.Module):
    """`forward`: images [B, C, H, W] in [0, 1] -> features [B, D]; `logits`: features -> [B, classes]."""

    body: nn.Module
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)

    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)


Kind = TypeVar("Kind", bound=Classifier)


def load_classifier(kind: type[Kind], name: str, weights: str | None = None) -> tuple[Kind, float]:
    """The classifier, ready to use, and its test accuracy: shipped as `name`, or from a file that `save` wrote."""
    path = Path(weights).expanduser() if weights else SHIPPED / f"{name}.safetensors"
    try:
        network = kind()
        network.load_state_dict({key: tensor.clone() for key, tensor in load_file(path).items()})
        with safe_open(path, "pt") as file:
            return network.eval(), float(file.metadata()["accuracy"])
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no {name} classifier: make one with "
                        f"python -m diffprune.evaluation.features.{name} {path}") from error


def save(network: Classifier, accuracy: float, path: Path) -> None:
    """Writes the weights, with the accuracy in [0, 1] that they reached on images they were not trained on."""
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    with atomic_file(path) as partial:
        save_file(state, partial, metadata={"accuracy": f"{accuracy:.4f}"})


@torch.no_grad()
def accuracy_of(network: Classifier, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Fraction in [0, 1] of uint8 `images` [N, C, H, W] that are given their class in `labels` [N]; sets evaluation mode."""
    network.eval()
    predicted = torch.cat([network.logits(network(some.float() / 255)).argmax(1) for some in images.split(batch)])
    return float((predicted == labels).double().mean())


def command(name: str, description: str, train: Callable[[argparse.Namespace], tuple[Classifier, float]],
            options: Callable[[argparse.ArgumentParser], None]) -> None:
    """`python -m diffprune.evaluation.features.<name> [OUT]`: trains, writes the weight file, prints the accuracy."""
    parser = argparse.ArgumentParser(prog=f"python -m diffprune.evaluation.features.{name}", description=description)
    parser.add_argument("out", type=Path, nargs="?", default=Path(f"{name}.safetensors"), help="weight file to write")
    parser.add_argument("--seed", type=int, default=0)
    options(parser)
    chosen = parser.parse_args()
    network, accuracy = train(chosen)
    save(network, accuracy, chosen.out)
    print(f"{chosen.out}: accuracy {accuracy:.4f} on held-out images")
