"""What a cell will take: from finished runs of the same model and data set where there are any, else from arithmetic."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from diffprune.config.schema import EVALUATIONS_PER_STEP, evaluations
from diffprune.report.finished import FOREIGN
from diffprune.runs.metrics import Metrics
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json
from diffprune.runtime.progress import duration
from experiments.planning.cells import Cell
from experiments.planning.declarations import datasets

CPU, GPU = 2e10, 5e12       # multiply-accumulates per second: of two cores with small images; of one GPU of 2019 on
INCEPTION = 5.7e9           # MACs of one image's features
BYTES_PER_MAC = 8e-3        # activations of a training image, per MAC of an evaluation
COPIES = 5                  # of the weights while training: weights, gradients, two moments, average
RUNTIME = 600e6             # bytes of the libraries themselves
ON_CPU = " CPU, "           # in the name under which a run records its device
SAMPLE = 20                 # finished runs that are read


@dataclass(frozen=True)
class Estimate:
    """Seconds, bytes of the device's memory and bytes of disk; `basis` says what the numbers rest on."""
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
    """The kind of device that cells will run on, a GPU or a CPU, and `because` of what it is taken to be that."""
    gpu: bool
    because: str

    rate = property(lambda self: GPU if self.gpu else CPU)      # multiply-accumulates per second

    @classmethod
    def of(cls, words: Sequence[str]) -> "Device":
        """From the `words` of a command; the nodes of a cluster have GPUs, without either this machine decides."""
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if (device := options.get("device", "auto")) != "auto":
            return cls(device.startswith("cuda"), f"device={device}")
        if options.get("launcher") == "slurm":
            return cls(True, "launcher=slurm")
        return cls(has_gpu(), "one is here" if has_gpu() else "none is here, device=cuda or launcher=slurm counts on one")

    def __str__(self) -> str:
        return f"at {self.rate:.0e} MAC/s, the rate of a {'GPU' if self.gpu else 'CPU'} ({self.because})"


@dataclass(frozen=True)
class Past:
    """A finished run, as the source of an estimate: bytes of the device (0 where they were not recorded) and of disk, and
    steps of training."""
    metrics: Metrics
    memory: int
    disk: int
    steps: int

    @classmethod
    def of(cls, run: Run) -> "Past":
        metrics, lines = Metrics.read(run.metrics), ProgressLog.read(run.progress)
        status = read_json(run.status) if run.status.exists() else {}
        disk = sum(file.stat().st_size for file in run.folder.rglob("*") if file.is_file())
        memory = status.get("gpu_memory") or status.get("memory", 0)
        return cls(metrics, memory, disk, int(lines[-1]["step"]) if lines else 0)


def estimates(cells: Sequence[Cell], device: Device) -> list[Estimate]:
    """What each cell takes as a whole, done or not; a model that several share is counted with the first of them."""
    finished, models, out = history(cells, device), set(), []
    for cell in cells:
        past = finished.get((cell.folder.parent, cell.options["model"]["name"]), [])
        steps = 0 if cell.model in models else cell.options["schedule"]["steps"]
        models.add(cell.model)
        fallback = arithmetic(cell, steps, device)
        out.append(measured(cell, steps, past, fallback.memory) if past else fallback)
    return out


def history(cells: Sequence[Cell], device: Device) -> dict[tuple[Path, str], list[Past]]:
    """{(folder of a data set's runs, model): some of its finished runs on the same kind of device}; damaged ones are left
    out."""
    runs: dict[tuple[Path, str], list[Past]] = {}
    for folder in dict.fromkeys(cell.folder.parent for cell in cells):
        for run in [Run(file.parent) for file in sorted(folder.glob("*/metrics.json"))[:SAMPLE]]:
            try:
                past = Past.of(run)
            except (UserError, *FOREIGN) as error:
                print(f"the estimate leaves out {run.folder}: {error}", file=sys.stderr)
                continue
            if not past.metrics.device or device.gpu != (ON_CPU in past.metrics.device):
                runs.setdefault((folder, past.metrics.model), []).append(past)
    return runs


def measured(cell: Cell, steps: int, past: Sequence[Past], memory: float) -> Estimate:
    """From finished runs, stage by stage, in proportion to the training `steps` and to images times sampling steps. `memory`
    is taken where no run recorded its own."""
    images, sampling = cell.options["evaluate"]["images"], cell.options["sampler"]["steps"]

    def typical(stage: str, units: Callable[[Past], float] = lambda run: 1) -> float:
        """Median seconds of a stage per unit of work."""
        return median([run.metrics.seconds[stage] / units(run) for run in past
                       if stage in run.metrics.seconds and units(run)] or [0.0])

    seconds = (typical("score") + typical("prune") + steps * typical("finetune", lambda run: run.steps)
               + images * sampling * typical("sample", lambda run: run.metrics.images * run.metrics.protocol["steps"])
               + images * typical("evaluate", lambda run: run.metrics.images))
    devices = sorted({run.metrics.device for run in past if run.metrics.device})
    return Estimate(seconds, max(run.memory for run in past) or memory, median(run.disk for run in past),
                    f"{len(past)} finished runs of this model" + (f" on {' and '.join(devices)}" if devices else ""))


def arithmetic(cell: Cell, steps: int, device: Device) -> Estimate:
    """For training `steps`, at the rate of the device; a nominal ratio r is taken to leave (1 - r)² of the model."""
    options, pruner, images = cell.options, cell.options["pruner"], cell.options["evaluate"]["images"]
    dense = datasets().get(options["dataset"]["name"], {}).get("dense")
    if dense is None:
        return Estimate(0, 0, 0, "no estimate: the size of this data set's model is not declared")
    kept = (1 - pruner.get("ratio", 0.0)) ** 2
    macs, weights = dense["macs"] * 1e9, dense["params"] * 4e6
    pixels = options["dataset"]["resolution"] ** 2 * options["dataset"]["channels"]
    memory = RUNTIME * (not device.gpu) + weights * COPIES + options["schedule"]["batch"] * macs * BYTES_PER_MAC
    trained = options["schedule"]["steps"] > 0
    disk = weights * (1 + kept + trained * kept * COPIES) + images * pixels
    # Multiply-accumulates of each stage: sampling draws from the dense and the pruned model, features are of both.
    scoring = 1000 * pruner["calibration_batch"] * EVALUATIONS_PER_STEP * macs * ("threshold" in pruner)
    training = steps * options["schedule"]["batch"] * EVALUATIONS_PER_STEP * macs * kept
    sampling = images * evaluations(options["sampler"]) * macs * (1 + kept)
    features = images * 2 * INCEPTION * (options["evaluate"]["features"] == "inception")
    return Estimate((scoring + training + sampling + features) / device.rate, memory, disk,
                    f"MACs × steps × images {device}")


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, by the driver's own file, so that no library is loaded for it."""
    return Path("/proc/driver/nvidia/version").exists()
