"""What is refused of a composed configuration, before any work."""

import math
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffprune.config.model_source import PAGE, by_hand, is_hub_name, is_url, origin
from diffprune.config.naming import masked
from diffprune.config.schema import (
    STAGES,
)
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_folder

ON_THE_HUB = ("cifar10",)     # data sets whose path may be a name there
CHOICES = {
    "until": STAGES, "precision": ("no", "bf16", "fp16"), "sampler.spacing": ("uniform", "quad"),
    "pruner.selection": ("paper", "torch_pruning"), "pruner.heads": ("equal", "whole"),
    "pruner.scope": ("local", "global", "isomorphic"),
    "evaluate.features": ("digits-cnn", "cifar-cnn", "inception", "dinov2"),
    "dataset.on_error": ("stop", "skip"), "dataset.channels": (1, 3), "memory_format": ("contiguous", "channels_last"),
    "schedule.loss": ("noise", "distill", "features"), "schedule.rate": ("constant", "cosine"),
}
RANGES = (
    ("seed", 0, 2**31), ("pruner.ratio", 0, 1), ("pruner.threshold", 0, math.inf),
    ("pruner.calibration_batch", 1, math.inf), ("pruner.round_to", 1, math.inf),
    ("pruner.floor", 0, 1), ("pruner.target.macs", 1e-6, 1), ("pruner.target.params", 1e-6, 1),
    ("pruner.target.latency", 1e-6, 1), ("pruner.timesteps_per_pass", 1, math.inf), ("pruner.stops_kept", 1, math.inf),
    ("pruner.timesteps.first", 0, math.inf), ("pruner.timesteps.count", 1, math.inf),
    ("schedule.steps", 0, math.inf), ("schedule.batch", 1, math.inf), ("schedule.lr", 0, math.inf),
    ("schedule.rounds", 1, math.inf),
    ("schedule.dropout", 0, 1), ("schedule.ema", 0, 1), ("schedule.clip", 1e-6, math.inf),
    ("schedule.accumulate", 1, math.inf), ("schedule.min_snr", 1e-6, math.inf), ("schedule.warmup", 0, math.inf),
    ("schedule.ema_power", 0, math.inf), ("schedule.keep_last", 1, math.inf),
    ("schedule.save_every", 1, math.inf), ("schedule.save_minutes", 0, math.inf),
    ("schedule.log_every", 1, math.inf), ("schedule.preview_every", 0, math.inf),
    ("sampler.steps", 1, 1001), ("sampler.eta", 0, 1.0001), ("sampler.batch", 1, math.inf), ("sampler.seed", 0, 2**31),
    ("sampler.guidance", 0, math.inf), ("sampler.processes", 1, math.inf),
    ("evaluate.images", 2, math.inf), ("evaluate.batch", 1, math.inf), ("evaluate.ssim_window", 3, math.inf),
    ("evaluate.subset", 2, math.inf), ("evaluate.kid_subset", 2, math.inf), ("evaluate.neighbours", 1, math.inf),
    ("logger.patience", 0, math.inf), ("dataset.workers", 0, math.inf), ("dataset.memory_gb", 0, math.inf),
)


def check(cfg: DictConfig) -> None:
    """Refuses what no run can use, before any work; raises UserError with the option and the way out."""
    masked(cfg)
    check_values(cfg)
    window, side = cfg.evaluate.ssim_window, cfg.dataset.resolution
    if window > side or window % 2 == 0:
        raise UserError(f"evaluate.ssim_window={window} does not fit {side}-pixel images: choose an odd number up to {side}")
    check_pruner(cfg.pruner)
    check_rounds(cfg)
    check_paths(cfg)


def check_pruner(pruner: DictConfig) -> None:
    """Refuses options of the pruner that contradict each other."""
    targets = [f"pruner.target.{name}={share}" for name, share in pruner.target.items() if share is not None]
    if len(targets) > 1:
        raise UserError(f"{' and '.join(targets)} are two targets: choose one")
    if targets and not pruner.ratio:
        raise UserError(f"pruner={pruner.name} removes nothing (its ratio is 0), {targets[0]} asks it to: leave one out")
    if any(T < 0 for T in pruner.thresholds or ()):
        raise UserError(f"pruner.thresholds={list(pruner.thresholds)} is outside its range: choose values from 0 on")
    first, last = (OmegaConf.select(pruner, f"timesteps.{end}") for end in ("first", "last"))
    if last is not None and last < first:
        raise UserError(f"pruner.timesteps.last={last} lies before pruner.timesteps.first={first}: choose a later one")


def check_rounds(cfg: DictConfig) -> None:
    """Refuses several rounds where one of them would have nothing to heal, or nothing to take away."""
    rounds, steps, pruner = cfg.schedule.rounds, cfg.schedule.steps, cfg.pruner
    if rounds == 1:
        return
    if steps < rounds:
        raise UserError(f"schedule.rounds={rounds} heals as many times, schedule.steps={steps} does not last for that: "
                        f"give schedule.steps={rounds} or more, or schedule.rounds=1")
    unfit = {f"pruner={pruner.name}, which removes nothing (its ratio is 0)": pruner.ratio == 0,
             "pruner.reinitialise=true, which forgets what was healed": pruner.reinitialise,
             "model.checkpoint=null, whose random weights have nothing to heal": cfg.model.checkpoint is None,
             f"pruner.scope={pruner.scope}, which divides no ratio among rounds": pruner.scope != "local",
             "pruner.target, which finds its ratio in one go": any(v is not None for v in pruner.target.values())}
    for what, given in unfit.items():
        if given:
            raise UserError(f"schedule.rounds={rounds} does not go with {what}: leave one of the two out")


def check_values(cfg: DictConfig) -> None:
    """Refuses options that are none, and values outside their choices or ranges; what is still `???` passes."""
    unknown = [key for key in added(cfg) if key != "hydra"]
    if unknown:
        raise UserError(f"{', '.join(unknown)} is no option: leave it out")
    for key, allowed in CHOICES.items():
        if (value := OmegaConf.select(cfg, key)) not in allowed and not (key == "schedule.loss" and "." in value):
            raise UserError(f"{key}={value} is not known: choose one of {', '.join(map(str, allowed))}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", cfg.device):
        raise UserError(f"device={cfg.device} is not known: choose auto, cpu, cuda or cuda:N")
    for key, low, high in RANGES:
        value = OmegaConf.select(cfg, key)
        if value is not None and not (low <= value < high):
            raise UserError(f"{key}={value} is outside its range: choose a value in [{low:g}, {high:g})")


def added(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of options that `+name=value` put beside the schema's."""
    known, names = OmegaConf.get_type(cfg), []
    for key in cfg:
        if is_dataclass(known) and key not in {option.name for option in fields(known)}:
            names.append(f"{prefix}{key}")
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            names += added(cfg[key], f"{prefix}{key}.")
    return names


def check_paths(cfg: DictConfig) -> None:
    """Refuses local files and folders that are not there; a hub name (owner/name) or an address is looked up later."""
    fetched = {"dataset.path": cfg.dataset.name in ON_THE_HUB, "evaluate.weights": cfg.evaluate.features == "dinov2"}
    for key in ("dataset.path", "dataset.labels", "evaluate.weights", "evaluate.reference"):
        path = OmegaConf.select(cfg, key)
        if path is not None and not exists(Path(path).expanduser()) and not (fetched.get(key) and is_hub_name(path)):
            raise UserError(f"{key}={path} does not exist: give the place of a local copy")
    checkpoint = cfg.model.checkpoint
    if checkpoint is None or checkpoint.startswith("shipped:") or is_url(checkpoint) or is_hub_name(checkpoint):
        return
    if checkpoint.startswith(PAGE):
        raise UserError(f"the checkpoint of model={cfg.model.name} is published on a page that a program cannot fetch from, "
                        f"{checkpoint.removeprefix(PAGE)} ({origin(cfg.model)}): {by_hand(cfg.model)}")
    if not is_folder(Path(checkpoint).expanduser()):
        raise UserError(f"model.checkpoint={checkpoint} does not exist: give a model folder, or null for random weights")
