"""What a run can be asked for: names and types. Values live in `conf/`, nowhere else."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from diffprune.runtime.errors import UserError

STAGES = ("score", "prune", "finetune", "sample", "evaluate")
EVALUATIONS_PER_STEP = 3    # a training step, forward and back, costs about as much as so many evaluations

# Options that say where, how fast or how loud, not what: two runs that differ only here are one experiment.
OUTSIDE_THE_HASH = (
    "paths", "logger", "launcher", "device", "until", "hydra",
    "dataset.path", "dataset.workers", "dataset.memory_gb", "dataset.labels", "pruner.thresholds", "pruner.stops_kept",
    "sampler.batch", "sampler.processes", "evaluate.batch", "evaluate.speed",
    "schedule.save_every", "schedule.log_every", "schedule.preview_every", "schedule.accumulate", "schedule.keep_last",
    "schedule.save_minutes",
    "model.source.host", "model.source.megabytes", "model.source.licence", "model.source.address", "model.source.convert",
)

# A data set of which nothing but `dataset.path` says which one it is; under another `dataset.name` the name says that.
UNNAMED = "image_folder"

# Options that came later, with the value that means what every run did before: at it, older runs keep their names.
LATER = {
    "pruner.heads": "equal", "pruner.round_to": None, "sampler.guidance": None, "dataset.on_error": "stop",
    "pruner.scope": "local", "pruner.target": {"macs": None, "params": None, "latency": None},
    "pruner.timesteps": None, "pruner.timesteps_per_pass": None,
    "evaluate.reference": None, "evaluate.subset": 10_000, "evaluate.kid_subset": 1000, "evaluate.neighbours": 3,
    "schedule.loss": "noise", "schedule.min_snr": None, "schedule.rate": "constant", "schedule.warmup": 0,
    "schedule.ema_power": None, "schedule.rounds": 1, "memory_format": "contiguous",
}


@dataclass
class Paths:
    runs: str = MISSING
    cache: str = MISSING


@dataclass
class Dataset:
    _target_: str = MISSING
    name: str = MISSING
    resolution: int = MISSING
    channels: int = MISSING
    flip: bool = MISSING
    path: str | None = MISSING
    workers: int = MISSING
    memory_gb: float = MISSING
    on_error: str = MISSING


@dataclass
class LabelledDataset(Dataset):
    """Adds the file that names the classes of images that lie side by side."""
    labels: str | None = MISSING


@dataclass
class Source:
    """Where a model's own checkpoint comes from; `convert`: what `diffprune.convert` has to be told about it."""
    host: str = MISSING
    address: str = MISSING
    megabytes: int = MISSING
    licence: str = MISSING
    convert: str | None = MISSING


@dataclass
class Model:
    name: str = MISSING
    checkpoint: str | None = MISSING
    source: Source | None = MISSING
    unet: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING


@dataclass
class LatentModel(Model):
    """Adds the first stage, whose latents are denoised, and the embedding of the classes."""
    vqvae: dict[str, Any] = MISSING
    class_embedder: dict[str, Any] = MISSING


@dataclass
class Target:
    """What is to be left of the dense model, as a share of it in (0, 1): at most one of the three."""
    macs: float | None = MISSING
    params: float | None = MISSING
    latency: float | None = MISSING


@dataclass
class Pruner:
    name: str = MISSING
    criterion: dict[str, Any] = MISSING
    ratio: float = MISSING
    calibration_batch: int = MISSING
    reinitialise: bool = MISSING
    selection: str = MISSING
    heads: str = MISSING
    round_to: int | None = MISSING
    scope: str = MISSING
    floor: float = MISSING
    target: Target = MISSING
    timesteps: dict[str, Any] | None = MISSING
    timesteps_per_pass: int | None = MISSING
    thresholds: list[float] | None = MISSING
    stops_kept: int = MISSING


@dataclass
class GatedPruner(Pruner):
    """Adds the gate's threshold T: timesteps from the first with L_t < T * L_max on are dropped."""
    threshold: float = MISSING


@dataclass
class Schedule:
    name: str = MISSING
    steps: int = MISSING
    rounds: int = MISSING
    batch: int = MISSING
    accumulate: int = MISSING
    loss: str = MISSING
    min_snr: float | None = MISSING
    lr: float = MISSING
    rate: str = MISSING
    warmup: int = MISSING
    betas: list[float] = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    clip: float | None = MISSING
    dropout: float = MISSING
    ema: float = MISSING
    ema_power: float | None = MISSING
    save_every: int = MISSING
    save_minutes: float | None = MISSING
    keep_last: int = MISSING
    log_every: int = MISSING
    preview_every: int = MISSING


@dataclass
class Sampler:
    name: str = MISSING
    spacing: str = MISSING
    steps: int = MISSING
    eta: float = MISSING
    clip: bool = MISSING
    guidance: float | None = MISSING
    seed: int = MISSING
    batch: int = MISSING
    processes: int | None = MISSING


@dataclass
class Evaluate:
    images: int = MISSING
    features: str = MISSING
    weights: str | None = MISSING
    reference: str | None = MISSING
    subset: int = MISSING
    kid_subset: int = MISSING
    neighbours: int = MISSING
    ssim_window: int = MISSING
    before_healing: bool = MISSING
    speed: bool = MISSING
    batch: int = MISSING


@dataclass
class Logger:
    _target_: str = MISSING


@dataclass
class WandbLogger(Logger):
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    artifacts: bool = MISSING
    patience: float = MISSING


@dataclass
class Launcher:
    name: str = MISSING


@dataclass
class SlurmLauncher(Launcher):
    """Adds whether a multirun stays until its jobs have ended, or only shows what it would submit."""
    wait: bool = MISSING
    dry_run: bool = MISSING


@dataclass
class Config:
    seed: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    memory_format: str = MISSING
    until: str = MISSING
    paths: Paths = field(default_factory=Paths)
    dataset: Dataset = MISSING
    model: Model = MISSING
    pruner: Pruner = MISSING
    schedule: Schedule = MISSING
    sampler: Sampler = MISSING
    evaluate: Evaluate = MISSING
    logger: Logger = MISSING
    launcher: Launcher = MISSING


def science(cfg: DictConfig) -> dict[str, Any]:
    """The options that change the result, as a plain dict; raises UserError while one is still `???`."""
    options = OmegaConf.to_container(masked(cfg), resolve=True)
    assert isinstance(options, dict)
    return scientific(options)


def scientific(options: dict[str, Any]) -> dict[str, Any]:
    """Of all of a run's `options` (changed in place) those that change the result."""
    path = options["dataset"].get("path")
    for key in OUTSIDE_THE_HASH:
        branch_of(options, key).pop(key.rpartition(".")[2], None)
    if options["dataset"]["name"] == UNNAMED and path is not None:
        options["dataset"]["path"] = os.path.realpath(os.path.expanduser(path))
    for key, unchanged in LATER.items():
        branch, last = branch_of(options, key), key.rpartition(".")[2]
        if branch.get(last, unchanged) == unchanged:
            branch.pop(last, None)
    for key in overruled(options["pruner"]):
        options["pruner"].pop(key, None)
    return options


def overruled(pruner: dict[str, Any]) -> list[str]:
    """The pruner's options that have no say beside others: a policy replaces the gate, a target finds the ratio."""
    floor = pruner.get("scope", "local") == "local"
    return ["threshold"] * ("timesteps" in pruner) + ["ratio"] * ("target" in pruner) + ["floor"] * floor


def prunes(options: dict[str, Any]) -> bool:
    """Whether a run with these scientific options takes channels away; a target finds the ratio where there is none."""
    return options["pruner"].get("ratio") != 0


def evaluations(sampler: Mapping[str, Any]) -> int:
    """Evaluations of the network that an image takes under these sampling options; guidance takes two a step."""
    return sampler["steps"] * (1 if sampler.get("guidance") in (None, 1) else 2)


def branch_of(options: dict[str, Any], key: str) -> dict[str, Any]:
    """The dict that holds the last part of the dotted `key`; an empty one where there is none."""
    for parent in key.split(".")[:-1]:
        options = options.get(parent) or {}
    return options


def masked(cfg: DictConfig) -> DictConfig:
    """A copy without Hydra's own node, whose values are not resolvable here; refuses what is not chosen yet."""
    own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    if missing:
        raise UserError(f"nothing chosen for {', '.join(missing)}: give a value, for instance {missing[0]}=…")
    return own


def fingerprint(content: Any) -> str:
    """First 8 hex digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def run_name(cfg: DictConfig) -> str:
    """`model-pruner[-T.05]-r.3-schedule-seed-hash`: for people up to the hash, which alone tells runs apart.

    A policy stands in place of T (`window0_499`), a target in place of r (`macs.5`), and another scope after it.
    Several rounds follow the schedule's name (`rounds3`).
    """
    return name_of(science(cfg))


def name_of(options: dict[str, Any]) -> str:
    """The name of the run with these scientific `options`."""
    pruner, parts = options["pruner"], [options["model"]["name"], options["pruner"]["name"]]
    if "threshold" in pruner:
        parts.append(f"T{pruner['threshold']:g}")
    if "timesteps" in pruner:
        parts.append(policy_name(pruner["timesteps"]))
    if pruner.get("ratio"):
        parts.append(f"r{pruner['ratio']:g}")
    parts += [f"{quantity}{share:g}" for quantity, share in pruner.get("target", {}).items() if share is not None]
    if "scope" in pruner:
        parts.append(pruner["scope"])
    parts.append(options["schedule"]["name"])
    if "rounds" in options["schedule"]:
        parts.append(f"rounds{options['schedule']['rounds']}")
    parts += [f"s{options['seed']}", fingerprint(options)]
    return "-".join(parts)


def policy_name(timesteps: dict[str, Any]) -> str:
    """The policy's class and its numbers."""
    numbers = [f"{value:g}" for value in timesteps.values() if isinstance(value, int | float)]
    return timesteps["_target_"].rpartition(".")[2].lower() + "_".join(numbers)
