"""The small CIFAR-10 classifier whose features score its images.

`python -m diffprune.evaluation.features.cifar_cnn --data DIR` trains it.
"""

import argparse
import logging
import time

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffprune.data.loading.images import ImageSet
from diffprune.evaluation.features.classifier import Classifier, accuracy_of, command, load_classifier
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError

log = logging.getLogger(__name__)

WIDTHS = (32, 64, 128, 160)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)      # of the training pixels, in [0, 1]
PADDING = 4             # pixels that a training image is moved by at most


class Normalise(nn.Module):
    """Channels to mean 0 and standard deviation 1 over the training set."""

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        return (images - mean) / std


class Residual(nn.Module):
    """x + f(x), f two convolutions of one width (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class CifarCNN(Classifier):
    """A residual network of 1.1 M parameters: [B, 3, 32, 32] in [0, 1] -> 160 features, averaged over 4x4 places."""

    def __init__(self) -> None:
        super().__init__()
        first, *others = WIDTHS
        stages = [stage for narrow, wide in zip(WIDTHS, others, strict=False)
                  for stage in (convolution(narrow, wide, stride=2), Residual(wide))]
        self.body = nn.Sequential(Normalise(), convolution(3, first), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(others[-1], 10)


def convolution(narrow: int, wide: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False), nn.BatchNorm2d(wide),
                         nn.ReLU(inplace=True))


def load_cifar_cnn(weights: str | None = None) -> tuple[CifarCNN, float]:
    """The classifier and its test accuracy, shipped or from a file that this module wrote."""
    return load_classifier(CifarCNN, "cifar_cnn", weights)


def augmented(images: Tensor, rng: Generator) -> Tensor:
    """uint8 [B, 3, 32, 32] as floats in [0, 1], mirrored half of the time and moved by up to 4 pixels."""
    size, count = images.shape[-1], len(images)
    padded = F.pad(images.float() / 255, (PADDING,) * 4, mode="reflect")
    y, x = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=rng) + torch.arange(size)
    mirrored = torch.rand(count, 1, generator=rng) < 0.5
    x = torch.where(mirrored, x.flip(1), x)
    return padded[torch.arange(count)[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def train(images: Tensor, labels: Tensor, epochs: int, seed: int, batch: int = 128, rate: float = 0.1) -> CifarCNN:
    """Trains on uint8 `images` [N, 3, 32, 32] and `labels` [N]: Nesterov momentum, one rise and fall of the rate."""
    torch.manual_seed(seed)
    rng = Generator().manual_seed(seed)
    network = CifarCNN().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(images) // batch * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.25)
    start = time.monotonic()
    for epoch in range(epochs):
        network.train()
        for places in torch.randperm(len(images), generator=rng)[:len(images) // batch * batch].split(batch):
            moved = augmented(images[places], rng).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(network.logits(network(moved)), labels[places], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        log.info("epoch %d of %d: loss %.3f, %.0f s", epoch + 1, epochs, loss.item(), time.monotonic() - start)
    return network.to(memory_format=torch.contiguous_format)


def trained(options: argparse.Namespace) -> tuple[CifarCNN, float]:
    """The classifier made of the training split in `options.data`, and its accuracy on the 10 000 test images.

    The weights are rounded to half precision before they are tested: what is measured is what is written.
    """
    from diffprune.data import cifar10
    (pixels, labels), test = (everything(cifar10.load(options.data, flip=False, split=split)) for split in ("train", "test"))
    network = train(pixels, labels, options.epochs, options.seed).half().float()
    accuracy = accuracy_of(network, *test)
    return network.half(), accuracy


def everything(images: ImageSet) -> tuple[Tensor, Tensor]:
    """All images of a set, uint8 [N, 3, 32, 32], and their classes, int64 [N]."""
    pixels, labels = images.take(torch.arange(len(images)))
    if labels is None:
        raise UserError("these images have no classes: give a complete copy of CIFAR-10 with --data")
    return pixels, labels


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="a local copy of CIFAR-10 as dataset.path takes it; without one it is fetched")
    parser.add_argument("--epochs", type=int, default=8)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        command("cifar_cnn", __doc__, trained, options)


if __name__ == "__main__":
    main()
