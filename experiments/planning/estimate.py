"""What a cell will take: from finished runs of the same model and data set where there are any, else from arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from diffprune.config.schema import EVALUATIONS_PER_STEP, evaluations
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runtime.files import read_json
from diffprune.runtime.progress import duration
from experiments.planning.cells import Cell
from experiments.planning.declarations import datasets

CPU, GPU = 2e10, 5e12       # multiply-accumulates per second: of two cores with small images; of one GPU of 2019 on
INCEPTION = 5.7e9           # MACs of one image's features
BYTES_PER_MAC = 8e-3        # activations of a training image, per MAC of an evaluation
COPIES = 5                  # of the weights while training: weights, gradients, two moments, average
RUNTIME = 600e6             # bytes of the libraries themselves
ON_CPU = " CPU, "           # in what a run calls its device
TRIED = 20                  # finished runs that are looked at


@dataclass(frozen=True)
class Estimate:
    """`basis` says what the numbers rest on; `memory` is the device's."""
    seconds: float
    memory: float
    disk: float
    basis: str

    def __str__(self) -> str:
        return f"{duration(self.seconds)}, {size(self.memory)} memory, {size(self.disk)} disk ({self.basis})"

    def record(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds), "memory": int(self.memory), "disk": int(self.disk), "basis": self.basis}


@dataclass(frozen=True)
class Device:
    """What cells are taken to run on, a GPU or a CPU, and `because` of what."""
    gpu: bool
    because: str

    rate = property(lambda self: GPU if self.gpu else CPU)

    @classmethod
    def of(cls, words: Sequence[str]) -> "Device":
        """As the command's `words` say it; a cluster's nodes have GPUs, and else this machine is asked."""
        asked = dict(word.split("=", 1) for word in words if "=" in word)
        device = asked.get("device", "auto")
        if device != "auto":
            return cls(device.startswith("cuda"), f"device={device}")
        if asked.get("launcher") == "slurm":
            return cls(True, "launcher=slurm")
        return cls(has_gpu(), "one is here" if has_gpu() else "none is here, device=cuda or launcher=slurm counts on one")

    def __str__(self) -> str:
        return f"at {self.rate:.0e} MAC/s, the rate of a {'GPU' if self.gpu else 'CPU'} ({self.because})"


def estimates(cells: Sequence[Cell], device: Device) -> list[Estimate]:
    """Of each cell as a whole, whatever of it is done; a model that several share is made by the first of them."""
    known, made, found = history(cells, device), set(), []
    for cell in cells:
        past = known.get((cell.folder.parent, cell.options["model"]["name"]), [])
        steps = 0 if cell.model in made else cell.options["schedule"]["steps"]
        guessed = arithmetic(cell, steps, device)
        found.append(measured(cell, steps, past, guessed) if past else guessed)
        made.add(cell.model)
    return found


@dataclass(frozen=True)
class Past:
    """A finished run, as far as it tells what others will take."""
    run: Run
    metrics: dict[str, Any]

    @cached_property
    def memory(self) -> int:
        told = read_json(self.run.standing) if self.run.standing.exists() else {}
        return told.get("gpu_memory") or told.get("memory", 0)

    @cached_property
    def disk(self) -> int:
        return sum(file.stat().st_size for file in self.run.folder.rglob("*") if file.is_file())

    @cached_property
    def steps(self) -> int:
        """Of training."""
        lines = ProgressLog.read(self.run.progress)
        return int(lines[-1]["step"]) if lines else 0


def history(cells: Sequence[Cell], device: Device) -> dict[tuple[Path, str], list[Past]]:
    """{(folder of a data set's runs, model): some of its finished runs}, of those on the same kind of device."""
    found: dict[tuple[Path, str], list[Past]] = {}
    for folder in dict.fromkeys(cell.folder.parent for cell in cells):
        for file in sorted(folder.glob("*/metrics.json"))[:TRIED]:
            metrics = read_json(file)
            if (made_on := metrics.get("device")) and device.gpu == (ON_CPU in made_on):
                continue
            found.setdefault((folder, metrics["model"]), []).append(Past(Run(file.parent), metrics))
    return found


def measured(cell: Cell, steps: int, past: Sequence[Past], guessed: Estimate) -> Estimate:
    """Stage by stage, in proportion to the training `steps`, and to images times sampling steps."""
    options = cell.options
    images, sampled = options["evaluate"]["images"], options["evaluate"]["images"] * options["sampler"]["steps"]

    def middle(stage: str, unit: Any = lambda run: 1.0) -> float:
        rates = [run.metrics["seconds"][stage] / unit(run) for run in past if stage in run.metrics["seconds"] and unit(run)]
        return median(rates) if rates else 0.0

    seconds = (middle("score") + middle("prune") + steps * middle("finetune", lambda run: run.steps)
               + sampled * middle("sample", lambda run: run.metrics["images"] * run.metrics["protocol"]["steps"])
               + images * middle("evaluate", lambda run: run.metrics["images"]))
    kept = [run.memory for run in past if run.memory]
    return Estimate(seconds, max(kept, default=guessed.memory), median(run.disk for run in past),
                    f"{len(past)} finished runs of this model{on(past)}")


def on(past: Sequence[Past]) -> str:
    devices = sorted({run.metrics["device"] for run in past if run.metrics.get("device")})
    return f" on {' and '.join(devices)}" if devices else ""


def arithmetic(cell: Cell, steps: int, device: Device) -> Estimate:
    """For training `steps`, at the rate of the device; a nominal ratio r is taken to leave (1 - r)² of the model."""
    options = cell.options
    dense = datasets().get(options["dataset"]["name"], {}).get("dense")
    if dense is None:
        return Estimate(0, 0, 0, "no estimate: nothing is known of this data set's model")
    left = (1 - options["pruner"].get("ratio", 0.0)) ** 2
    macs, weights = dense["macs"] * 1e9, dense["params"] * 4e6
    pixels = options["dataset"]["resolution"] ** 2 * options["dataset"]["channels"]
    memory = RUNTIME * (not device.gpu) + weights * COPIES + options["schedule"]["batch"] * macs * BYTES_PER_MAC
    trained = options["schedule"]["steps"] > 0
    disk = weights * (1 + left + trained * left * COPIES) + options["evaluate"]["images"] * pixels
    return Estimate(work(options, steps, macs, left) / device.rate, memory, disk, f"MACs × steps × images {device}")


def work(options: dict[str, Any], steps: int, macs: float, left: float) -> float:
    """Multiply-accumulates of a run: its walk over timesteps, training, the dense model's images and its own, features."""
    pruner, images = options["pruner"], options["evaluate"]["images"]
    walk = 1000 * pruner["calibration_batch"] * EVALUATIONS_PER_STEP * macs * ("threshold" in pruner)
    training = steps * options["schedule"]["batch"] * EVALUATIONS_PER_STEP * macs * left
    return (walk + training + images * evaluations(options["sampler"]) * macs * (1 + left)
            + images * 2 * INCEPTION * (options["evaluate"]["features"] == "inception"))


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is here, asked of the driver's own file, so that no library is loaded for it."""
    return Path("/proc/driver/nvidia/version").exists()
