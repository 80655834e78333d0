"""Drawing images with a model: image i always from the noise of index i."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from diffprune.diffusion.pixels import to_uint8
from diffprune.diffusion.process import SPACINGS, ddim
from diffprune.diffusion.randomness import Noise
from diffprune.models.device import autocast, formatted
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runs.cache import Cache
from diffprune.runtime.progress import progress
from diffprune.sampling.protocol import image_key, plan
from diffprune.sampling.shards import Parts

log = logging.getLogger(__name__)
POLL = 0.2     # seconds between two looks at what other processes have drawn


def draw(model: DiffusionModel, indices: range, cfg: DictConfig) -> np.ndarray:
    """The images `indices`, uint8 [len(indices), H, W, C], by the sampler in `cfg.sampler`, on the model's device."""
    device, sampler = model.device, cfg.sampler
    timesteps = SPACINGS[sampler.spacing](sampler.steps, len(model.alpha_bar))
    noise = Noise(indices, sampler.seed)
    x_T = noise.draw(model.shape).to(device)
    formatted(model.unet, cfg).eval()
    with torch.inference_mode(), autocast(cfg, device), one_thread(device):
        denoiser = model.denoiser(model.labels_for(indices), sampler.guidance)
        x_0 = ddim(denoiser, x_T, timesteps, model.alpha_bar, sampler.eta, noise, sampler.clip)
        images = model.to_image(x_0)
    return to_uint8(images).cpu().numpy()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU the number of threads decides the last bits of a sum: with one, images are the same on any of them."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def draw_all(model: DiffusionModel, cfg: DictConfig, path: Path, what: str, share: tuple[int, int] | None = None,
             quiet: bool = False, attend: Callable[[], None] = lambda: None) -> None:
    """Exactly `evaluate.images` images as one uint8 array file [N, H, W, C] at `path`; a killed call goes on where it was.

    Any number of processes may call this for one `path`: each draws parts of `sampler.batch` images that no other does,
    and all return when the set is whole. With a `share` (i, n), for file systems that lock nothing, process i of n draws
    its own parts alone and returns when they are there; process 0 waits for all. `attend` is called again and
    again, and what it raises ends the call; `quiet` shows no progress.
    """
    parts = Parts(path, cfg.evaluate.images, cfg.sampler.batch, plan(model, cfg), share)
    drawn, total = drawing(model, cfg, parts, attend), len(parts.all)
    for _ in drawn if quiet else progress(drawn, f"drawing, {what}", total, done=total - len(parts.missing())):
        pass
    parts.remove()


def drawing(model: DiffusionModel, cfg: DictConfig, parts: Parts, attend: Callable[[], None]) -> Iterator[range]:
    """Draws what is missing and nobody else draws, until the set is whole; yields each part that is new, of any process."""
    before, said = parts.missing(), False
    while not parts.done():
        attend()
        busy = draw_one(model, cfg, parts)
        missing = parts.missing()
        yield from set(before).difference(missing)
        if not missing:
            parts.join()
        if not busy:        # others draw, or one of them joins
            if parts.share is not None and missing and not said:
                log.info("this part is drawn, waiting for the others to be drawn: --part %s", ", ".join(parts.awaited()))
                said = True
            time.sleep(POLL)
        before = missing


def draw_one(model: DiffusionModel, cfg: DictConfig, parts: Parts) -> bool:
    """Draws the first part that can be claimed; False where there is none."""
    for part in parts.mine(parts.missing()):
        with parts.claimed(part) as claimed:
            if claimed:
                parts.write(part, draw(model, part, cfg))
                return True
    return False


def shared_path(model: DiffusionModel, cfg: DictConfig) -> Path:
    """Where the cache has the images of a model that several runs compare with."""
    return Cache(Path(cfg.paths.cache)).path("images", image_key(model, cfg), ".npy")


def shared_images(model: DiffusionModel, cfg: DictConfig, what: str) -> np.ndarray:
    """The images of a model that several runs compare with (dense, or pruned before healing), drawn once into the cache."""
    path = shared_path(model, cfg)
    if not path.exists():
        draw_all(model, cfg, path, what)
    return np.load(path, mmap_mode="r")
