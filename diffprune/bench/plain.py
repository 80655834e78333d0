"""The baseline: the method's work done in the plainest way, as a script would.

One timestep per step, float32, NCHW, a fresh forward pass for every cell of a grid, PNG files between sampling and scoring.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffprune.data import image_folder
from diffprune.diffusion.process import Process, ddim
from diffprune.training.recipe import Recipe


class PlainTraining:
    """One optimiser step at a time, the average's tensors one by one, the loss read back at every step. `recipe` gives its
    learning rate, clipping, the constant average's decay, and dropout in the residual blocks."""

    def __init__(self, unet: nn.Module, process: Process, recipe: Recipe) -> None:
        self.unet, self.process, self.clip, self.decay = unet.train(), process, recipe.clip, recipe.ema
        for module in unet.modules():
            if isinstance(module, ResnetBlock2D):
                module.dropout = nn.Dropout(recipe.dropout)
        self.optimiser = torch.optim.Adam(unet.parameters(), lr=recipe.lr, foreach=False)
        self.average = {name: p.detach().clone() for name, p in unet.named_parameters()}

    def step(self, x_0: Tensor) -> float:
        half = torch.randint(0, self.process.timesteps, (len(x_0) // 2 + 1,), device=x_0.device)
        t = torch.cat([half, self.process.timesteps - 1 - half])[:len(x_0)]
        eps = torch.randn_like(x_0)
        predicted = self.unet(self.process.add_noise(x_0, eps, t), t).sample
        loss = (predicted - eps).square().sum((1, 2, 3)).mean()
        self.update(loss)
        return loss.item()

    def update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.unet.parameters(), self.clip, foreach=False)
        self.optimiser.step()
        for name, p in self.unet.named_parameters():
            self.average[name].data = (1 - self.decay) * p.data + self.decay * self.average[name].data


def plain_pass(unet: nn.Module, process: Process, x_0: Tensor, timesteps: int) -> float:
    """Sums the gradients of L_0 … L_(timesteps-1) into the weights, one forward and backward pass each."""
    unet.eval().zero_grad()
    largest, eps = 0.0, torch.randn_like(x_0)
    for step in range(timesteps):
        t = torch.full((len(x_0),), step, device=x_0.device)
        predicted = unet(process.add_noise(x_0, eps, t), t).sample
        loss = (predicted - eps).square().sum((1, 2, 3)).mean()
        largest = max(largest, loss.item())
        loss.backward()
    return largest


@torch.no_grad()
def plain_samples(unet: nn.Module, process: Process, x_T: Tensor, timesteps: Sequence[int]) -> Tensor:
    """Images in [-1, 1] from the noise `x_T` [B, C, H, W]."""
    unet.eval()
    return ddim(lambda x, t: unet(x, t).sample, x_T, timesteps, process)


def plain_files(images: np.ndarray, folder: Path) -> None:
    """Writes uint8 [N, H, W, C] as PNG files."""
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{i}.png")


@torch.no_grad()
def plain_features(network: nn.Module, folder: Path, batch: int) -> np.ndarray:
    """Features [N, D] of the PNG files of `folder`, read back one after another."""
    features, files = [], sorted(folder.glob("*.png"))
    for start in range(0, len(files), batch):
        pixels = [np.atleast_3d(np.asarray(Image.open(file))) for file in files[start:start + batch]]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        features.append(network(images.to(next(network.parameters()).device)).cpu().numpy())
    return np.concatenate(features)


def pytorch_fid(folder: Path, batch: int, weights: str | None, device: torch.device) -> Callable[[], Any]:
    """What pytorch-fid's command does with the images in `folder`, its own network loaded before: mean and covariance."""
    from pytorch_fid.fid_score import compute_statistics_of_path

    from diffprune.evaluation.features.inception import original_network
    network = original_network(weights)[0].to(device)
    return partial(compute_statistics_of_path, str(folder), network, batch, 2048, str(device), torch.get_num_threads())


def photographs(folder: Path, count: int) -> None:
    """Writes `count` JPEG files of 256x256 pixels, smooth with some noise, about 30 kB each."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((256, 256))
        pixels = np.asarray(coarse, dtype=np.int64) + rng.integers(-12, 13, (256, 256, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=85)


def datasets_pass(folder: Path, workers: int, batch: int = 64) -> Callable[[], int]:
    """One pass over the photographs with `datasets`: decoded arrays, read by a loader's processes; counts them."""
    from datasets import load_dataset
    rows = load_dataset("imagefolder", split="train", data_dir=str(folder)).with_format("numpy")
    return lambda: sum(len(some) for some in DataLoader(rows, batch, num_workers=workers, collate_fn=stacked))


def stacked(rows: list[dict]) -> np.ndarray:
    """The images of some rows, uint8 [B, H, W, C]."""
    return np.stack([row["image"] for row in rows])


def streamed_pass(folder: Path, count: int, workers: int, batch: int = 64) -> int:
    """One epoch of this project's training batches of the photographs, streamed; counts them."""
    images = image_folder.load(str(folder), 256, 3, flip=True, workers=workers, memory_gb=0)
    return sum(len(some) for some, _ in images.batches(0, count // batch, batch, seed=0))
