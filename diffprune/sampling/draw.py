"""Drawing images with a model: image i always starts from the noise of index i."""


import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffprune.diffusion.pixels import to_uint8
from diffprune.diffusion.process import SPACINGS, ddim
from diffprune.diffusion.randomness import Noise
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.scheduler_steps import drawn, scheduler_for
from diffprune.runtime.errors import UserError
from diffprune.runtime.progress import progress
from diffprune.sampling.protocol import Drawing, SamplerOptions
from diffprune.sampling.shards import Shards

POLL = 0.2     # seconds between two looks at what other processes have drawn


def draw(model: DiffusionModel, indices: range, options: SamplerOptions, execution: Execution | None = None) -> np.ndarray:
    """The images `indices` as uint8 [len(indices), H, W, C], drawn on the model's device.

    `execution` gives precision and memory format (float32, contiguous unless given). Image i does not depend on the other
    indices beyond the rounding of a batch.
    """
    execution, device = execution or Execution(model.device), model.device
    timesteps = SPACINGS[options.spacing](options.steps, model.process.timesteps)
    noise = Noise(indices, options.seed)
    x_T = noise.draw(model.shape).to(device)
    execution.format(model.unet).eval()
    with torch.inference_mode(), execution.autocast(), one_thread(device):
        predict = partial(model.predictor, model.labels_for(indices), options.guidance)
        if options.scheduler is None:
            x_0 = ddim(predict(), x_T, timesteps, model.process, options.eta, noise, options.clip)
        else:
            scheduler = scheduler_for(model.scheduler, options.scheduler)
            x_0 = drawn(scheduler, predict(scaled=True), x_T, options.steps, options.eta, noise.streams).float()
        images = model.to_image(x_0)
        if not (x_0.isfinite().all() and images.isfinite().all()):      # NaN would become black
            raise UserError(f"the model draws images that are NaN or infinite with precision={execution.precision}: give "
                            "precision=fp32, or a model whose weights do not overflow")
    return to_uint8(images).cpu().numpy()


@contextmanager
def one_thread(device: torch.device) -> Generator[None]:
    """Computes with one thread on a CPU: the number of threads decides the last bits of a sum."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def draw_all(model: DiffusionModel, drawing: Drawing, path: Path, what: str, quiet: bool = False,
             attend: Callable[[], None] = lambda: None) -> None:
    """Writes exactly `drawing.count` images as one uint8 array file [N, H, W, C] at `path`; a repeated call resumes.

    Any number of processes may call this for one `path`: each draws shards that no other draws, and all return when the set
    is complete. `attend` is called again and again, and what it raises ends the call; `quiet` shows no progress.
    """
    shards = Shards(path, drawing.count, drawing.batch, drawing.key(model) | {"device": model.device.type})
    total, drawn = len(shards.all), draw_shards(drawing.execution.for_evaluations(model), drawing, shards, attend)
    for _ in drawn if quiet else progress(drawn, f"drawing, {what}", total, done=total - len(shards.missing())):
        pass
    shards.remove()


def draw_shards(model: DiffusionModel, drawing: Drawing, shards: Shards, attend: Callable[[], None]) -> Iterator[range]:
    """Draws the missing shards that nobody else draws, until the set is complete; yields each new shard, of any process."""
    previous = shards.missing()
    while not shards.path.exists():
        attend()
        busy = draw_one(model, drawing, shards)
        missing = shards.missing()
        yield from set(previous).difference(missing)
        if not missing:
            shards.join()
        if not busy:        # others draw, or one of them joins the shards
            time.sleep(POLL)
        previous = missing


def draw_one(model: DiffusionModel, drawing: Drawing, shards: Shards) -> bool:
    """Draws the first shard that can be claimed; False where there is none."""
    for shard in shards.missing():
        with shards.claimed(shard) as claimed:
            if claimed:
                whole = range(shard.start, shard.start + drawing.batch)     # a compiled network takes one shape
                indices = shard if drawing.execution.compile == "no" else whole
                shards.write(shard, draw(model, indices, drawing.options, drawing.execution)[:len(shard)])
                return True
    return False
