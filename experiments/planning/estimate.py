"""What a cell will take: from finished runs of the same model and data set where there are any, else from arithmetic."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from diffprune.config.naming import fingerprint, prunes
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
WITHOUT_GRADIENTS = ("diffprune.pruning.criteria.Magnitude", "diffprune.pruning.criteria.Random")   # importing takes seconds


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


@dataclass(frozen=True)
class NewWork:
    """What a cell does that no cell before it has done: the `steps` of its training, its scoring pass, the dense model's
    images."""
    steps: int
    scores: bool
    draws_dense: bool


def estimates(cells: Sequence[Cell], device: Device) -> list[Estimate]:
    """What each cell takes as a whole, done or not; what several share (a trained model, a scoring pass, the dense model's
    images) is counted with the first of them."""
    finished, seen, out = history(cells, device), Counter[tuple[Any, ...]](), []

    def first(*key: Any) -> bool:
        seen[key] += 1
        return seen[key] == 1

    for cell in cells:
        past, options = finished.get((cell.folder.parent, cell.options["model"]["name"]), []), cell.options
        source = fingerprint([options["model"], options["dataset"]["name"]])
        scoring = ("scores", source, options["pruner"]["calibration_batch"], cell.seed)
        new = NewWork(steps=options["schedule"]["steps"] if first("model", cell.model) else 0,
                      scores=needs_scoring(options) and first(*scoring),
                      draws_dense=first("dense", source, fingerprint(options["sampler"]), options["evaluate"]["images"]))
        fallback = arithmetic(cell, new, device)
        out.append(measured(cell, new, past, fallback.memory) if past else fallback)
    return out


def needs_scoring(options: Mapping[str, Any]) -> bool:
    """Whether a run with these scientific options takes gradients to score channels; a class of one's own counts as if."""
    return prunes(dict(options)) and options["pruner"]["criterion"]["_target_"] not in WITHOUT_GRADIENTS


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


def measured(cell: Cell, new: NewWork, past: Sequence[Past], memory: float) -> Estimate:
    """From finished runs, stage by stage, in proportion to the training steps and to images times sampling steps. `memory`
    is taken where no run recorded its own."""
    images, sampling = cell.options["evaluate"]["images"], cell.options["sampler"]["steps"]

    def typical(stage: str, units: Callable[[Past], float] = lambda run: 1) -> float:
        """Median seconds of a stage per unit of work."""
        return median([run.metrics.seconds[stage] / units(run) for run in past
                       if stage in run.metrics.seconds and units(run)] or [0.0])

    seconds = (new.scores * typical("score") + (not cell.is_dense) * typical("prune")
               + new.steps * typical("finetune", lambda run: run.steps)
               + images * sampling * typical("sample", lambda run: run.metrics.images * run.metrics.protocol["steps"])
               + images * typical("evaluate", lambda run: run.metrics.images))
    devices = sorted({run.metrics.device for run in past if run.metrics.device})
    return Estimate(seconds, max(run.memory for run in past) or memory, median(run.disk for run in past),
                    f"{len(past)} finished runs of this model" + (f" on {' and '.join(devices)}" if devices else ""))


def arithmetic(cell: Cell, new: NewWork, device: Device) -> Estimate:
    """At the rate of the device; a nominal ratio r is taken to leave (1 - r)² of the model. The memory is that of one
    process with the run's micro-batches; the disk has what the cell adds to the cache."""
    options, pruner, images = cell.options, cell.options["pruner"], cell.options["evaluate"]["images"]
    dense = datasets().get(options["dataset"]["name"], {}).get("dense")
    if dense is None:
        return Estimate(0, 0, 0, "no estimate: the size of this data set's model is not declared")
    kept = (1 - pruner.get("ratio", 0.0)) ** 2
    macs, weights = dense["macs"] * 1e9, dense["params"] * 4e6
    pixels = options["dataset"]["resolution"] ** 2 * options["dataset"]["channels"]
    micro_batch = ceil(options["schedule"]["batch"] / cell.accumulate)
    memory = RUNTIME * (not device.gpu) + weights * COPIES + micro_batch * macs * BYTES_PER_MAC
    # Sets of images that are drawn, by what an evaluation costs: the final model's, unless that is the dense one.
    drawn = [1.0] * new.draws_dense + [kept] * (not cell.is_dense)
    trained = options["schedule"]["steps"] > 0
    disk = weights * (1 + kept + trained * kept * COPIES + new.scores) + images * pixels * (1 + new.draws_dense)
    # Multiply-accumulates of each stage; the scoring pass may stop earlier.
    scoring = 1000 * pruner["calibration_batch"] * EVALUATIONS_PER_STEP * macs * new.scores
    training = new.steps * options["schedule"]["batch"] * EVALUATIONS_PER_STEP * macs * kept
    sampling = images * evaluations(options["sampler"]) * macs * sum(drawn)
    features = images * len(drawn) * INCEPTION * (options["evaluate"]["features"] == "inception")
    return Estimate((scoring + training + sampling + features) / device.rate, memory, disk,
                    f"MACs × steps × images {device}")


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, by the driver's own file, so that no library is loaded for it."""
    return Path("/proc/driver/nvidia/version").exists()
