"""The options of a run: names, types, ranges, choices, and which of them name the run. Values live in `conf/` alone."""

# ruff: noqa: RUF009  (`option` makes a new field at every call)

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from math import inf
from typing import Any, get_args

from omegaconf import MISSING

STAGES = ("score", "prune", "finetune", "sample", "evaluate")
EVALUATIONS_PER_STEP = 3    # a training step, forward and back, costs about as much as so many evaluations


def option(low: float = -inf, below: float = inf, *, choices: tuple[Any, ...] = (), or_class: bool = False,
           length: int | None = None, names_the_run: bool = True, meaning: str = "") -> Any:
    """A field for an option: a number in [low, below) or a list of such numbers, or one of `choices`; null needs no range.
    Its `meaning` is given here where no default stands beside a comment in `conf/`.

    `or_class`: besides the choices, the dotted path of a class. `length`: how many numbers a list must have.

    `names_the_run=False`: the option says where, how fast or with how much output a run is computed, not what is computed.
    Two runs that differ only in such options are the same experiment and share one folder.
    """
    return field(default=MISSING, metadata={"low": low, "below": below, "choices": choices, "or_class": or_class,
                                            "length": length, "names_the_run": names_the_run, "meaning": meaning})


@dataclass
class Paths:
    runs: str = option()
    cache: str = option()


@dataclass
class Dataset:
    _target_: str = option()
    name: str = option()
    resolution: int = option(1, meaning="side of the images in pixels")
    channels: int = option(choices=(1, 3))
    flip: bool = option()
    path: str | None = option(names_the_run=False)
    workers: int = option(0, names_the_run=False)
    memory_gb: float = option(0, names_the_run=False)
    held_out: int = option(0)
    on_error: str = option(choices=("stop", "skip"))


@dataclass
class LabelledDataset(Dataset):
    """Adds the file that names the class of each image, for images that lie in one folder."""
    labels: str | None = option(names_the_run=False)


@dataclass
class CaptionedDataset(Dataset):
    """Adds the field or column of the captions."""
    caption: str = option()


@dataclass
class Source:
    """Where a model's own checkpoint is published; `convert`: the options that `diffprune.convert` needs for it."""
    host: str = option()
    address: str = option()
    megabytes: int = option(0)
    licence: str = option()
    convert: str | None = option()


@dataclass
class Model:
    name: str = option()
    checkpoint: str | None = option(meaning="shipped:NAME, a model folder, a hub name, or null for random weights")
    source: Source | None = option(names_the_run=False)
    unet: dict[str, Any] = option()
    scheduler: dict[str, Any] = option()


@dataclass
class LatentModel(Model):
    """Adds the first stage, whose latents are denoised, and the embedding of the classes."""
    vqvae: dict[str, Any] = option()
    class_embedder: dict[str, Any] = option()


@dataclass
class FamilyModel(Model):
    """Adds the family of a model that belongs to none of the package's families, with its fixed networks."""
    family: dict[str, Any] = option()


@dataclass
class Target:
    """The fraction of the dense model that is kept, in (0, 1), of at most one of three quantities."""
    macs: float | None = option(1e-6, 1)
    params: float | None = option(1e-6, 1)
    latency: float | None = option(1e-6, 1)


@dataclass
class Pruner:
    name: str = option()
    criterion: dict[str, Any] = option()
    ratio: float = option(0, 1)
    calibration_batch: int = option(1)
    reinitialise: bool = option()
    compensate: str = option(choices=("none", "ridge"))
    compensation_images: int = option(1)
    selection: str = option(choices=("paper", "torch_pruning"))
    heads: str = option(choices=("equal", "whole"))
    round_to: int | None = option(1)
    scope: str = option(choices=("local", "global", "isomorphic", "cost_aware"))
    floor: float = option(0, 1)
    only: list[str] | None = option()
    keep: list[str] = option()
    ratios: Any = option()
    target: Target = option()
    timesteps: dict[str, Any] | None = option()
    timesteps_per_pass: int | None = option(1)
    thresholds: list[float] | None = option(0, names_the_run=False)
    stops_kept: int = option(1, names_the_run=False)


@dataclass
class GatedPruner(Pruner):
    """Adds the threshold T: timesteps from the first with L_t < T * L_max on are dropped."""
    threshold: float = option(0, meaning="T: timesteps from the first with a loss below T times the largest are dropped")


@dataclass
class Schedule:
    name: str = option()
    steps: int = option(0, meaning="optimiser steps over all rounds; 0: no fine-tuning")
    equal_cost: bool = option()
    rounds: int = option(1)
    batch: int = option(1, meaning="images of one optimiser step over all processes")
    accumulate: int = option(1, names_the_run=False)
    objective: dict[str, float] = option()
    min_snr: float | None = option(1e-6)
    lr: float = option(0)
    rate: str = option(choices=("constant", "cosine"))
    warmup: int = option(0)
    betas: list[float] = option(0, 1, length=2)
    eps: float = option(0)
    weight_decay: float = option(0)
    clip: float | None = option(1e-6)
    dropout: float = option(0, 1)
    unconditional: float = option(0, 1)
    ema: float = option(0, 1)
    ema_power: float | None = option(0)
    save_every: int = option(1, names_the_run=False)
    save_minutes: float | None = option(0, names_the_run=False)
    keep_last: int = option(1, names_the_run=False)
    log_every: int = option(1, names_the_run=False)
    measure_every: int = option(0, names_the_run=False)
    preview_every: int = option(0, names_the_run=False)


@dataclass
class Sampler:
    name: str = option()
    scheduler: Any = option()
    spacing: str = option(choices=("uniform", "quad"))
    steps: int = option(1, 1001)
    eta: float = option(0, 1.0001)
    clip: bool = option()
    guidance: float | None = option(0)
    seed: int = option(0, 2**31)
    batch: int = option(1, names_the_run=False)
    processes: int | None = option(1, names_the_run=False)


@dataclass
class Evaluate:
    images: int = option(2, meaning="images that are drawn and scored")
    features: str = option(choices=("digits-cnn", "cifar-cnn", "inception", "dinov2"))
    weights: str | None = option()
    reference: str | None = option()
    subset: int = option(2)
    kid_subset: int = option(2)
    neighbours: int = option(1)
    metrics: dict[str, Any] = option()
    ssim_window: int = option(3)
    before_healing: bool = option()
    speed: bool = option(names_the_run=False)
    batch: int = option(1, names_the_run=False)


@dataclass
class Logger:
    _target_: str = option()


@dataclass
class WandbLogger(Logger):
    project: str = option()
    entity: str | None = option()
    group: str | None = option()
    artifacts: bool = option()
    patience: float = option(0)
    tags: list[str] = option()
    notes: str | None = option()


@dataclass
class Launcher:
    name: str = option()


@dataclass
class SlurmLauncher(Launcher):
    """Adds how jobs are submitted: whether a multirun waits until they have ended, or only prints what it would submit;
    sbatch's options; whether the nodes have files that this machine lacks."""
    wait: bool = option()
    dry_run: bool = option()
    sbatch: str = option()
    files_on_nodes: bool = option()


@dataclass
class Config:
    seed: int = option(0, 2**31)
    device: str = option(names_the_run=False)
    precision: str = option(choices=("auto", "fp32", "tf32", "bf16", "fp16"))
    memory_format: str = option(choices=("auto", "contiguous", "channels_last"))
    compile: str = option(choices=("auto", "no", "default", "max-autotune"), names_the_run=False)
    until: str = option(choices=STAGES, names_the_run=False)
    paths: Paths = option(names_the_run=False)
    dataset: Dataset = option()
    model: Model = option()
    pruner: Pruner = option()
    schedule: Schedule = option()
    sampler: Sampler = option()
    evaluate: Evaluate = option()
    logger: Logger = option(names_the_run=False)
    launcher: Launcher = option(names_the_run=False)


@cache
def outside_the_name(schema: type[Any] = Config) -> tuple[str, ...]:
    """Dotted names of the options of `schema` and its subclasses that are no part of a run's name."""
    names: list[str] = []
    for own in (own for one in (schema, *schema.__subclasses__()) for own in fields(one)):
        if not own.metadata.get("names_the_run", True):
            names.append(own.name)
        for kind in get_args(own.type) or (own.type,):      # of `Source | None` too
            if isinstance(kind, type) and is_dataclass(kind):
                names += [f"{own.name}.{name}" for name in outside_the_name(kind)]
    return tuple(dict.fromkeys(names))


def evaluations(sampler: Mapping[str, Any]) -> int:
    """Evaluations of the network that an image takes under these sampling options; guidance takes two a step."""
    steps = sampler["steps"]
    if "Heun" in str((sampler.get("scheduler") or {}).get("_target_")):     # of second order, but for the last step
        steps = 2 * steps - 1
    return steps * (1 if sampler.get("guidance") in (None, 1) else 2)
