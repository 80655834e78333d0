"""The small digit classifier whose features score the digits.

`python -m diffprune.evaluation.features.digits_cnn` trains it again.
"""

import argparse

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffprune.evaluation.features.classifier import Classifier, accuracy_of, command, load_classifier

HELD_OUT = 5            # every fifth image of each class is never trained on


class DigitsCNN(Classifier):
    """[B, 1, 8, 8] in [0, 1] -> 64 features; ten logits from them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def logits(self, features: Tensor) -> Tensor:
        return self.head(F.dropout(features, 0.3, self.training))


def load_digits_cnn(weights: str | None = None) -> tuple[DigitsCNN, float]:
    """The classifier and its test accuracy, shipped or from a file that this module wrote."""
    return load_classifier(DigitsCNN, "digits_cnn", weights)


def held_out(labels: Tensor) -> Tensor:
    """[N] bool: the test images, every fifth of each class in data-set order."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        test[(labels == digit).nonzero().flatten()[::HELD_OUT]] = True
    return test


def shifted(images: Tensor, rng: Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel in both directions, edges filled with background."""
    padded, moves = F.pad(images, (1, 1, 1, 1)), torch.randint(0, 3, (len(images), 2), generator=rng)
    return torch.stack([image[:, y:y + 8, x:x + 8] for image, (y, x) in zip(padded, moves.tolist(), strict=True)])


def train(epochs: int, seed: int) -> tuple[DigitsCNN, float]:
    """Trains on four fifths of the digits; returns the network and its accuracy on the rest."""
    from diffprune.data.digits import labels, load
    pixels, classes = load(None, flip=False).pixels, labels()
    images = pixels.float() / 255
    test, rng = held_out(classes), Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network, places = DigitsCNN(), (~test).nonzero().flatten()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        network.train()
        for batch in places[torch.randperm(len(places), generator=rng)].split(64):
            loss = F.cross_entropy(network.logits(network(shifted(images[batch], rng))), classes[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return network, accuracy_of(network, pixels[test], classes[test])


def trained(options: argparse.Namespace) -> tuple[DigitsCNN, float]:
    return train(options.epochs, options.seed)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=40)


def main() -> None:
    command("digits_cnn", __doc__, trained, options)


if __name__ == "__main__":
    main()
