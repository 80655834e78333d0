"""What a run can be asked for: names and types. Values live in `conf/`, nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

STAGES = ("score", "prune", "finetune", "sample", "evaluate")
EVALUATIONS_PER_STEP = 3    # a training step, forward and back, costs about as much as so many evaluations


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


def evaluations(sampler: Mapping[str, Any]) -> int:
    """Evaluations of the network that an image takes under these sampling options; guidance takes two a step."""
    return sampler["steps"] * (1 if sampler.get("guidance") in (None, 1) else 2)
