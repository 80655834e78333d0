"""What a step of training costs beside the network's and the optimiser's own work: `python -m experiments.bench_training`.

Options are those of a run; without any, the dense CIFAR-10 UNet on 4 random images. Every part is timed in the same
process, step by step in turn, and medians are compared; a checkpoint counts once in `schedule.save_every` steps.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from diffprune import ema
from diffprune.composition import register
from diffprune.journal import Journal
from diffprune.models import placed, random_model
from diffprune.state import write_state
from diffprune.track import Tracker
from diffprune.training import Training, draw

DEFAULT = ("dataset=cifar10", "model=ddpm_cifar10", "schedule.batch=4")
CONF = Path(__file__).parent.parent / "conf"
ROUNDS = 3


def bench(cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Median seconds of a step and of each part beside the work proper (the average is inside a step as well)."""
    recipe = cfg.schedule
    training = Training(placed(random_model(cfg), cfg), cfg)
    images = torch.rand(recipe.batch, *training.model.shape) * 2 - 1
    training.student.unet.train()
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object], every: int = 1) -> None:
        begin = time.perf_counter()
        work()
        if training.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.setdefault(name, []).append((time.perf_counter() - begin) / every)

    with Journal(folder / "progress.jsonl", 0, Tracker()) as journal:
        for turn in range(ROUNDS + 1):
            timed("step", lambda: training.advance(images, None))
            timed("draws", lambda turn=turn: draw(cfg.seed, turn, recipe.batch, training.model.shape, 1000))
            timed("average", lambda: ema.follow(training.ema, training.weights, 0.999))
            timed("log", lambda turn=turn: (training.check(), journal.write(turn, training.mean_loss(), 0.0)),
                  recipe.log_every)
            timed("checkpoint", lambda: write_state(folder / "state.safetensors", *training.state()), recipe.save_every)
    return {name: median(values[1:]) for name, values in seconds.items()}       # the first turn warms up


def main() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*(sys.argv[1:] or DEFAULT), "logger=none"])
    with tempfile.TemporaryDirectory() as folder:
        seconds = bench(cfg, Path(folder))
    beside = {name: value for name, value in seconds.items() if name != "step"}
    for name, value in (*beside.items(), ("together", sum(beside.values()))):
        print(f"{name:10} {1000 * value:9.3f} ms  {100 * value / seconds['step']:6.2f} % of a step of "
              f"{1000 * seconds['step']:.1f} ms")


if __name__ == "__main__":
    main()
