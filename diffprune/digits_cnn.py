"""The small digit classifier whose features score the digits; `python -m diffprune.digits_cnn` trains it anew."""

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffprune.errors import UserError
from diffprune.files import appearing

SHIPPED = Path(__file__).parent / "assets" / "digits_cnn.safetensors"
HELD_OUT = 5            # every fifth image of each class is never trained on


class DigitsCNN(nn.Module):
    """[B, 1, 8, 8] in [0, 1] -> 64 features; `classify` adds the ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)

    def classify(self, images: Tensor) -> Tensor:
        return self.head(F.dropout(self.body(images), 0.3, self.training))


def load_digits_cnn(weights: str | None = None) -> tuple[DigitsCNN, float]:
    """The classifier and its test accuracy, shipped or from a file that this module wrote."""
    path = Path(weights) if weights else SHIPPED
    try:
        network = DigitsCNN()
        network.load_state_dict(load_file(path))
        with safe_open(path, "pt") as file:
            return network.eval(), float(file.metadata()["accuracy"])
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no digit classifier: make one with python -m diffprune.digits_cnn {path}") from error


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
    images, classes = load(None, flip=False).pixels.float() / 255, labels()
    test, rng = held_out(classes), Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network, places = DigitsCNN(), (~test).nonzero().flatten()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        network.train()
        for batch in places[torch.randperm(len(places), generator=rng)].split(64):
            loss = F.cross_entropy(network.classify(shifted(images[batch], rng)), classes[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        right = network.classify(images[test]).argmax(1) == classes[test]
    return network, float(right.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m diffprune.digits_cnn", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("digits_cnn.safetensors"), help="weight file to write")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network, accuracy = train(options.epochs, options.seed)
    with appearing(options.out) as partial:
        save_file(network.state_dict(), partial, metadata={"accuracy": f"{accuracy:.4f}"})
    print(f"{options.out}: accuracy {accuracy:.4f} on the held-out fifth")


if __name__ == "__main__":
    main()
