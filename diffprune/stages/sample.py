"""Stage 4: draw the final model's images, and a grid that shows them below the dense model's."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffprune.config.naming import masked
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runs.run import Run
from diffprune.runs.samples import Samples, read_images
from diffprune.runtime.checksums import check, intact
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.files import atomic_file
from diffprune.sampling.draw import draw_all
from diffprune.sampling.grid import grid
from diffprune.sampling.workers import Workers, leave_with_parent
from diffprune.stages.options import (
    TITLES,
    cache,
    drawing,
    execution,
    import_family,
    load_dense,
    load_own,
    plain,
    sampler_options,
    trains,
)
from diffprune.tracking.tracker import Tracker

COLUMNS = 16


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `samples/`: exactly `evaluate.images` images, `grid.png`, and `samples.json` as the last. `sampler.processes`
    processes draw, of which this is one."""
    start, how = time.monotonic(), execution(cfg)
    options = plain(masked(cfg))
    with Workers(how.process_count(cfg.sampler.processes) - 1, join_in, options, run.folder) as workers:
        files = draw_sets(cfg, run, how, attend=workers.attend)
    grid([read_images(file)[:COLUMNS] for file in files.values()], run.grid)
    tracker.image("samples", run.grid)
    shared = {name: str(file.relative_to(cache(cfg).folder)) for name, file in files.items() if name != "final"}
    Samples(cfg.evaluate.images, sampler_options(cfg).protocol(), shared, round(time.monotonic() - start, 3)).write(run)


def join(cfg: DictConfig, run: Run) -> None:
    """What the other processes of a run do meanwhile: they draw too and show no progress."""
    draw_sets(cfg, run, execution(cfg), quiet=True)


def image_sets(cfg: DictConfig, run: Run) -> dict[str, Callable[[], DiffusionModel]]:
    """How the model of each set that the run needs is loaded, in the order of the grid's rows."""
    sets = {"final": partial(load_own, cfg, run.final(trains(cfg)))}
    if cfg.model.checkpoint is not None:
        sets = {"dense": partial(load_dense, cfg, run)} | sets
    if cfg.evaluate.before_healing and trains(cfg):
        sets["before_healing"] = partial(load_own, cfg, run.pruned)
    return sets


def draw_sets(cfg: DictConfig, run: Run, how: Execution, **options: Any) -> dict[str, Path]:
    """Draws what is missing of the run's sets, together with every process that does the same; {set: its file}."""
    import_family(cfg)
    files, plan = {}, drawing(cfg, how)
    for name, load in image_sets(cfg, run).items():
        model = load()
        shared = cache(cfg).path("images", plan.key(model), ".npy")
        files[name] = file = run.images if name == "final" else shared
        drawn = intact(shared)      # by another run, with the same model
        check(file)
        if drawn and not file.exists():
            with atomic_file(file, checksum=True) as partial_file:
                shutil.copyfile(shared, partial_file)
        if not file.exists():
            draw_all(how.place(model), plan, file, TITLES[name], **options)
    return files


def join_in(index: int, options: dict[str, Any], folder: Path) -> None:
    """What the `index`-th local process does: it draws too, shows no progress, and ends with its parent."""
    cfg = OmegaConf.create(options)
    with one_sentence():
        draw_sets(cfg, Run(folder), execution(cfg).of_process(index), quiet=True, attend=leave_with_parent)
