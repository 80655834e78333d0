"""What a run can be asked for: names and types. Values live in `conf/`, nowhere else."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from diffprune.errors import UserError

STAGES = ("score", "prune", "finetune", "sample", "evaluate")

# Options that say where, how fast or how loud, not what: two runs that differ only here are one experiment.
OUTSIDE_THE_HASH = (
    "paths", "logger", "launcher", "device", "until", "hydra",
    "dataset.path", "dataset.workers",
    "sampler.batch", "sampler.processes", "evaluate.batch", "evaluate.speed",
    "schedule.save_every", "schedule.log_every", "schedule.preview_every",
    "model.source.host", "model.source.megabytes", "model.source.licence", "model.source.address", "model.source.convert",
)

# Options that came later, with the value that means what every run did before: at it, older runs keep their names.
LATER = {
    "pruner.heads": "equal", "pruner.round_to": None, "sampler.guidance": None,
    "evaluate.reference": None, "evaluate.subset": 10_000, "evaluate.kid_subset": 1000, "evaluate.neighbours": 3,
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
class Pruner:
    name: str = MISSING
    criterion: dict[str, Any] = MISSING
    ratio: float = MISSING
    calibration_batch: int = MISSING
    reinitialise: bool = MISSING
    selection: str = MISSING
    heads: str = MISSING
    round_to: int | None = MISSING


@dataclass
class GatedPruner(Pruner):
    """Adds the gate's threshold T: timesteps from the first with L_t < T * L_max on are dropped."""
    threshold: float = MISSING


@dataclass
class Schedule:
    name: str = MISSING
    steps: int = MISSING
    batch: int = MISSING
    lr: float = MISSING
    betas: list[float] = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    clip: float | None = MISSING
    dropout: float = MISSING
    ema: float = MISSING
    save_every: int = MISSING
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
class Config:
    seed: int = MISSING
    device: str = MISSING
    precision: str = MISSING
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
    return science_of(options)


def science_of(options: dict[str, Any]) -> dict[str, Any]:
    """`options`, all chosen and plain, without those that do not change the result; changes what it is given."""
    for key in OUTSIDE_THE_HASH:
        branch_of(options, key).pop(key.rpartition(".")[2], None)
    for key, unchanged in LATER.items():
        branch, last = branch_of(options, key), key.rpartition(".")[2]
        if branch.get(last, unchanged) == unchanged:
            branch.pop(last, None)
    return options


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
    """`model-pruner[-T.05]-r.3-schedule-seed-hash`: for people up to the hash, which alone tells runs apart."""
    options = science(cfg)
    pruner, parts = options["pruner"], [options["model"]["name"], options["pruner"]["name"]]
    if "threshold" in pruner:
        parts.append(f"T{pruner['threshold']:g}")
    if pruner["ratio"]:
        parts.append(f"r{pruner['ratio']:g}")
    parts += [options["schedule"]["name"], f"s{options['seed']}", fingerprint(options)]
    return "-".join(parts)
