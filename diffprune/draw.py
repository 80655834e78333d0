"""Drawing images with a model: image i always from the noise of index i."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from diffprune.diffusion import SPACINGS, Noise, ddim, to_uint8
from diffprune.diffusion_model import DiffusionModel
from diffprune.files import appearing, remove, sweep_partials
from diffprune.models import autocast, load_dense
from diffprune.progress import progress
from diffprune.run import Cache

GAP = 128      # grey: an image's black or white border stays visible


def draw(model: DiffusionModel, indices: range, cfg: DictConfig) -> np.ndarray:
    """The images `indices`, uint8 [len(indices), H, W, C], by the sampler in `cfg.sampler`, on the model's device."""
    device, sampler = model.device, cfg.sampler
    timesteps = SPACINGS[sampler.spacing](sampler.steps, len(model.alpha_bar))
    noise = Noise(indices, sampler.seed)
    x_T = noise.draw(model.shape).to(device)
    model.unet.eval()
    with torch.no_grad(), autocast(cfg, device):
        denoiser = model.denoiser(model.labels_for(indices), sampler.guidance)
        x_0 = ddim(denoiser, x_T, timesteps, model.alpha_bar, sampler.eta, noise, sampler.clip)
        images = model.to_image(x_0)
    return to_uint8(images).cpu().numpy()


def draw_all(model: DiffusionModel, cfg: DictConfig, path: Path, what: str) -> None:
    """Exactly `evaluate.images` images as one uint8 array file [N, H, W, C] at `path`; a killed call goes on where it was.

    Every finished batch is a file in a folder beside `path` until all of them are there.
    """
    parts, count = path.with_suffix(".parts"), cfg.evaluate.images
    parts.mkdir(parents=True, exist_ok=True)
    sweep_partials(parts)
    batches = [range(start, min(start + cfg.sampler.batch, count)) for start in range(0, count, cfg.sampler.batch)]
    missing = [batch for batch in batches if not part(parts, batch).exists()]
    for batch in progress(missing, f"drawing, {what}", len(batches), done=len(batches) - len(missing)):
        with appearing(part(parts, batch)) as partial, partial.open("wb") as file:
            np.save(file, draw(model, batch, cfg))
    with appearing(path) as partial:
        join([part(parts, batch) for batch in batches], count, partial)
    remove(parts)


def part(folder: Path, batch: range) -> Path:
    return folder / f"{batch.start:07d}-{batch.stop:07d}.npy"


def join(files: list[Path], count: int, target: Path) -> None:
    """Concatenates array files along the first axis, one in memory at a time."""
    shape, done = np.load(files[0], mmap_mode="r").shape[1:], 0
    whole = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, *shape))
    for file in files:
        images = np.load(file)
        whole[done:done + len(images)] = images
        done += len(images)
    whole.flush()


def shared_images(model: DiffusionModel, cfg: DictConfig, what: str) -> np.ndarray:
    """The images of a model that several runs compare with (dense, or pruned before healing), drawn once into the cache."""
    key = {"model": model.key, "images": cfg.evaluate.images, "precision": cfg.precision,
           "sampler": sampler_protocol(cfg)}
    with Cache(Path(cfg.paths.cache)).entry("images", key, ".npy") as path:
        if not path.exists():
            draw_all(model, cfg, path, what)
        return np.load(path, mmap_mode="r")


def sampler_protocol(cfg: DictConfig) -> dict:
    """The sampler's options that change an image; guidance only where there is any."""
    options = OmegaConf.to_container(cfg.sampler, resolve=True)
    unused = {"batch"} if options["guidance"] is not None else {"batch", "guidance"}
    return {name: value for name, value in options.items() if name not in unused}


def grid(rows: list[np.ndarray], path: Path, gap: int = 1) -> None:
    """One PNG: each of `rows` (uint8 [n, H, W, C]) a row of images, `gap` grey pixels between them."""
    def line(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, ((0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=GAP)
        return np.concatenate(list(padded), axis=1)
    picture = np.pad(np.concatenate([line(row) for row in rows]), ((0, gap), (0, gap), (0, 0)), constant_values=GAP)
    with appearing(path) as partial:
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(partial, format="PNG")


class Preview:
    """The same few images at every look: the dense model above the one in training, from the same noise."""

    def __init__(self, cfg: DictConfig, count: int = 8) -> None:
        self.cfg, self.indices, self.dense = cfg, range(count), None

    def draw(self, model: DiffusionModel, path: Path) -> None:
        """Writes the grid of `model` as it is now; without a dense checkpoint it has one row."""
        if self.dense is None and self.cfg.model.checkpoint is not None:
            self.dense = draw(load_dense(self.cfg).to(model.device), self.indices, self.cfg)
        rows = [] if self.dense is None else [self.dense]
        grid([*rows, draw(model, self.indices, self.cfg)], path)
