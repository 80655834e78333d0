"""Stage 4: draw the final model's images, and a grid that shows them below the dense model's.

`python -m diffprune.stages.sample RUN` joins in the drawing of a run from another process or machine.
"""

import argparse
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from diffprune.config.naming import masked
from diffprune.models.dense import load_dense
from diffprune.models.device import device_of, device_of_process, processes_for
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model
from diffprune.runs.run import Run
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, write_json
from diffprune.sampling.draw import draw_all, shared_path
from diffprune.sampling.grid import grid
from diffprune.sampling.protocol import sampler_protocol
from diffprune.sampling.workers import Workers, leave_with_parent
from diffprune.tracking.tracker import Tracker

COLUMNS = 16


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `samples/`: exactly `evaluate.images` images, `grid.png`, and `samples.json` as the last.

    `sampler.processes` processes draw, of which this is one.
    """
    start = time.monotonic()
    options = OmegaConf.to_container(masked(cfg), resolve=True)
    with Workers(processes_for(cfg) - 1, join_in, options, run.folder) as workers:
        paths = draw_sets(cfg, run, device_of(cfg), attend=workers.attend)
    grid([np.load(path, mmap_mode="r")[:COLUMNS] for path in paths], run.grid)
    tracker.image("samples", run.grid)
    write_json(run.samples_report, {"images": cfg.evaluate.images, "sampler": sampler_protocol(cfg),
                                    "seconds": round(time.monotonic() - start, 3)})


def join(cfg: DictConfig, run: Run) -> None:
    """What the other processes of a run do meanwhile: the same drawing, without a word."""
    draw_sets(cfg, run, device_of(cfg), quiet=True)


def draw_sets(cfg: DictConfig, run: Run, device: torch.device, **how: Any) -> list[Path]:
    """Draws what is missing of the sets that the run needs, together with every process that does the same; their files."""
    paths = []
    for what, model, path in sets(cfg, run):
        if not path.exists() and not copied(shared_path(model, cfg), path):
            draw_all(model.to(device), cfg, path, what, **how)
        paths.append(path)
    return paths


def copied(source: Path, path: Path) -> bool:
    """Whether the images were drawn before, for all runs that compare with the same model, and are now at `path` too."""
    if source == path or not source.exists():
        return False
    with atomic_file(path) as partial:
        shutil.copyfile(source, partial)
    return True


def sets(cfg: DictConfig, run: Run) -> Iterator[tuple[str, DiffusionModel, Path]]:
    """What the run needs images of, with the model and the file, in the order of the grid's rows."""
    if cfg.model.checkpoint is not None:
        dense = load_dense(cfg)
        yield "dense model", dense, shared_path(dense, cfg)
    yield "final model", load_model(run.final(cfg)), run.images
    if cfg.evaluate.before_healing and run.final(cfg) != run.pruned:
        unhealed = load_model(run.pruned)
        yield "before healing", unhealed, shared_path(unhealed, cfg)


def join_in(index: int, options: dict[str, Any], folder: Path) -> None:
    """What the `index`-th local process does: the same drawing, without a word."""
    cfg = OmegaConf.create(options)
    draw_sets(cfg, Run(folder), device_of_process(cfg, index), quiet=True, attend=leave_with_parent)


def main(arguments: list[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        run = Run(asked.run)
        if not run.config.exists():
            raise UserError(f"{run.folder} is no run folder: start the run first, with until=finetune")
        cfg = OmegaConf.load(run.config)
        if not run.final(cfg).exists():
            raise UserError(f"{run.folder} has no model {run.final(cfg).name}/ yet: repeat its command with until=finetune")
        draw_sets(cfg, run, device_of(cfg), share=asked.part)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m diffprune.stages.sample", description=__doc__.split("\n\n")[1])
    out.add_argument("run", type=Path, metavar="RUN", help="a run folder, whose model is pruned and healed")
    out.add_argument("--part", type=share, metavar="I/N", help="this is process I (from 0) of N: draw every N-th part and "
                     "lock nothing, for file systems without locks; process 0 joins the parts")
    return out


def share(text: str) -> tuple[int, int]:
    """`1/4` as (1, 4)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text} is no part: give I/N with I in 0 … N-1, for instance 0/4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main()
