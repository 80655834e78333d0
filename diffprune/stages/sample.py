"""Stage 4: draw the final model's images, and a grid that shows them below the dense model's."""

import logging
import time

import numpy as np
from omegaconf import DictConfig

from diffprune.checkpoint import load_model
from diffprune.draw import draw_all, grid, sampler_protocol, shared_images
from diffprune.files import write_json
from diffprune.models import device_of, load_dense
from diffprune.run import Run
from diffprune.track import Tracker

log = logging.getLogger(__name__)

COLUMNS = 16


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `samples/`: exactly `evaluate.images` images, `grid.png`, and `samples.json` as the last."""
    start, device, rows = time.monotonic(), device_of(cfg), []
    if cfg.model.checkpoint is not None:
        rows.append(shared_images(load_dense(cfg).to(device), cfg, "dense model")[:COLUMNS])
    model = load_model(run.final(cfg)).to(device)
    if not run.images.exists():
        draw_all(model, cfg, run.images, "final model")
    rows.append(np.load(run.images, mmap_mode="r")[:COLUMNS])
    if cfg.evaluate.before_healing and run.final(cfg) != run.pruned:
        rows.append(shared_images(load_model(run.pruned).to(device), cfg, "before healing")[:COLUMNS])
    grid(rows, run.grid)
    tracker.image("samples", run.grid)
    write_json(run.samples_report, {"images": cfg.evaluate.images, "sampler": sampler_protocol(cfg),
                                    "seconds": round(time.monotonic() - start, 3)})
