"""What a run can be asked for: names and types. Values live in `conf/`, nowhere else."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

from diffprune.errors import UserError

STAGES = ("score", "prune", "finetune", "sample", "evaluate")
PAGE = "page:"      # before the address of a page where a person has to click to get a checkpoint

# Options that say where, how fast or how loud, not what: two runs that differ only here are one experiment.
OUTSIDE_THE_HASH = (
    "paths", "logger", "launcher", "device", "until", "hydra",
    "dataset.path", "dataset.workers",
    "sampler.batch", "evaluate.batch", "evaluate.speed",
    "schedule.save_every", "schedule.log_every", "schedule.preview_every",
    "model.source.address", "model.source.convert",
)

# Options that came later, with the value that means what every run did before: at it, older runs keep their names.
LATER = {"pruner.heads": "equal", "pruner.round_to": None, "sampler.guidance": None}


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


@dataclass
class Evaluate:
    images: int = MISSING
    features: str = MISSING
    weights: str | None = MISSING
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


def register() -> None:
    """Makes the schema known to Hydra; options that only one choice of a group has are types of their own."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="schema", name="gated_pruner", node=GatedPruner)
    store.store(group="schema", name="latent_model", node=LatentModel)
    store.store(group="schema", name="wandb_logger", node=WandbLogger)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: checked_name(_root_), replace=True)


def checked_name(cfg: DictConfig) -> str:
    """The name of a run's folder; an impossible run has none, so that nothing is made for it.

    In a sweep the job itself refuses, when its turn comes, and the jobs after it still get theirs.
    """
    if OmegaConf.select(cfg, "hydra.mode") == RunMode.RUN:
        check(cfg)
    return run_name(cfg)


def science(cfg: DictConfig) -> dict[str, Any]:
    """The options that change the result, as a plain dict; raises UserError while one is still `???`."""
    options = OmegaConf.to_container(masked(cfg), resolve=True)
    assert isinstance(options, dict)
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


def added(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of options that `+name=value` put beside the schema's."""
    known, names = OmegaConf.get_type(cfg), []
    for key in cfg:
        if is_dataclass(known) and key not in {option.name for option in fields(known)}:
            names.append(f"{prefix}{key}")
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            names += added(cfg[key], f"{prefix}{key}.")
    return names


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


def check(cfg: DictConfig) -> None:
    """Refuses what no run can use, before any work; raises UserError with the option and the way out."""
    masked(cfg)
    check_values(cfg)
    window, side = cfg.evaluate.ssim_window, cfg.dataset.resolution
    if window > side or window % 2 == 0:
        raise UserError(f"evaluate.ssim_window={window} does not fit {side}-pixel images: choose an odd number up to {side}")
    check_paths(cfg)


def check_values(cfg: DictConfig) -> None:
    """Refuses options that are none, and values outside their choices or ranges; what is still `???` passes."""
    unknown = [key for key in added(cfg) if key != "hydra"]
    if unknown:
        raise UserError(f"{', '.join(unknown)} is no option: leave it out")
    for key, allowed in CHOICES.items():
        if (value := OmegaConf.select(cfg, key)) not in allowed:
            raise UserError(f"{key}={value} is not known: choose one of {', '.join(allowed)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", cfg.device):
        raise UserError(f"device={cfg.device} is not known: choose auto, cpu, cuda or cuda:N")
    for key, low, high in RANGES:
        value = OmegaConf.select(cfg, key)
        if value is not None and not (low <= value < high):
            raise UserError(f"{key}={value} is outside its range: choose a value in [{low:g}, {high:g})")


def check_paths(cfg: DictConfig) -> None:
    """Refuses local files and folders that are not there; a hub name (owner/name) or an address is looked up later."""
    for key in ("dataset.path", "evaluate.weights"):
        path = OmegaConf.select(cfg, key)
        if path is not None and not Path(path).expanduser().exists():
            raise UserError(f"{key}={path} does not exist: give the place of a local copy")
    checkpoint = cfg.model.checkpoint
    if checkpoint is None or checkpoint.startswith("shipped:") or is_url(checkpoint) or is_hub_name(checkpoint):
        return
    if checkpoint.startswith(PAGE):
        raise UserError(f"the checkpoint of model={cfg.model.name} is published on a page that a program cannot fetch from, "
                        f"{checkpoint.removeprefix(PAGE)} ({origin(cfg.model)}): {by_hand(cfg.model)}")
    if not Path(checkpoint).expanduser().is_dir():
        raise UserError(f"model.checkpoint={checkpoint} does not exist: give a model folder, or null for random weights")


def is_hub_name(checkpoint: str) -> bool:
    return re.fullmatch(r"\w[\w-]*/[\w.-]+", checkpoint) is not None


def is_url(checkpoint: str) -> bool:
    return checkpoint.startswith(("https://", "http://"))


def origin(model: DictConfig) -> str:
    """Who publishes the checkpoint in `model`, how large it is and under which licence; known of the model's own alone."""
    source = model.source
    if source is None or source.address != model.checkpoint.removeprefix(PAGE):
        return "size and licence unknown"
    return f"published by {source.host}, about {source.megabytes} MB, licence {source.licence}"


def by_hand(model: DictConfig) -> str:
    """What to do with a checkpoint file that was downloaded by other means."""
    options = f" {model.source.convert}" if model.source is not None and model.source.convert else ""
    return (f"download it yourself, run python -m diffprune.convert <file> <folder>{options}, "
            "and give model.checkpoint=<folder>")


CHOICES = {
    "until": STAGES, "precision": ("no", "bf16", "fp16"), "sampler.spacing": ("uniform", "quad"),
    "pruner.selection": ("paper", "torch_pruning"), "pruner.heads": ("equal", "whole"),
    "evaluate.features": ("digits-cnn", "inception"),
}
RANGES = (
    ("seed", 0, 2**31), ("pruner.ratio", 0, 1), ("pruner.threshold", 0, math.inf),
    ("pruner.calibration_batch", 1, math.inf), ("pruner.round_to", 1, math.inf),
    ("schedule.steps", 0, math.inf), ("schedule.batch", 1, math.inf), ("schedule.lr", 0, math.inf),
    ("schedule.dropout", 0, 1), ("schedule.ema", 0, 1), ("schedule.clip", 0, math.inf),
    ("schedule.save_every", 1, math.inf), ("schedule.log_every", 1, math.inf), ("schedule.preview_every", 0, math.inf),
    ("sampler.steps", 1, 1001), ("sampler.eta", 0, 1.0001), ("sampler.batch", 1, math.inf), ("sampler.seed", 0, 2**31),
    ("sampler.guidance", 0, math.inf),
    ("evaluate.images", 2, math.inf), ("evaluate.batch", 1, math.inf), ("evaluate.ssim_window", 3, math.inf),
    ("dataset.workers", 0, math.inf),
)
