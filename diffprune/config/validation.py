"""Checks of a composed configuration, before any work."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffprune.config.model_source import PAGE, by_hand, is_hub_name, is_url, origin
from diffprune.config.naming import LONGEST_NAME, masked, run_name
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import exists, is_file, is_folder

log = logging.getLogger(__name__)

ON_THE_HUB = ("cifar10",)     # data sets whose path may be the name of a repository on the Hugging Face hub


def check(cfg: DictConfig, overrides: Sequence[str] = (), in_sweep: bool = False) -> None:
    """Refuses a configuration that no run can use; raises UserError that names the option and what to choose instead.
    `overrides` are the words of the command line that it was composed from, `in_sweep` for one of several runs."""
    check_options(cfg, overrides, in_sweep)
    check_paths(cfg)


def check_options(cfg: DictConfig, overrides: Sequence[str] = (), in_sweep: bool = False) -> None:
    """What `check` does without a look at the disk."""
    masked(cfg)
    check_values(cfg)
    window, side = cfg.evaluate.ssim_window, cfg.dataset.resolution
    if window > side or window % 2 == 0:
        raise UserError(f"evaluate.ssim_window={window} does not fit {side}-pixel images: choose an odd number up to {side}")
    if cfg.schedule.accumulate > cfg.schedule.batch:
        raise UserError(f"schedule.accumulate={cfg.schedule.accumulate} splits a batch into more parts than it has images, "
                        f"schedule.batch={cfg.schedule.batch}: lower it")
    check_names(cfg)
    check_pruner(cfg.pruner)
    check_rounds(cfg)
    check_effect(cfg, overrides, in_sweep)


def check_names(cfg: DictConfig) -> None:
    """Refuses names that cannot be part of the name of a run's folder."""
    for key in ("dataset.name", "model.name", "pruner.name", "schedule.name"):
        if not re.fullmatch(r"[^./\\\0-\x1f][^/\\\0-\x1f]*", name := OmegaConf.select(cfg, key)):
            raise UserError(f"{key}={name!r} is part of a folder's name: give one without slashes and control characters "
                            "that does not begin with a dot")
    for name in (cfg.dataset.name, run_name(cfg)):
        if len(name.encode()) > LONGEST_NAME:
            raise UserError(f"the run's folder would be called {name[:60]}…, {len(name.encode())} bytes long, and a file "
                            f"system takes {LONGEST_NAME}: choose shorter names (model.name, pruner.name, schedule.name)")


def check_effect(cfg: DictConfig, overrides: Sequence[str], in_sweep: bool = False) -> None:
    """Refuses options of the command line that others make void. In a sweep those of a fine-tuning or a scoring pass that
    this run has none of are only named in the log: they are for the other runs."""
    checkpoint, pruner = cfg.model.checkpoint, cfg.pruner
    void = {
        r"model\.(unet|scheduler|vqvae|class_embedder|family)\b.*": checkpoint is not None and not is_url(checkpoint) and
        f"model.checkpoint={checkpoint} brings its own, model.checkpoint=null starts from random weights",
        r"pruner\.threshold": pruner.timesteps is not None and "pruner.timesteps says which timesteps count",
        r"pruner\.ratio": any(kept is not None for kept in pruner.target.values()) and "pruner.target finds the ratio",
        r"pruner\.compensation_images": pruner.compensate == "none" and "pruner.compensate=none uses none",
        r"pruner\.floor": pruner.scope == "local" and "pruner.scope=local has no floor",
        r"schedule\.ema": cfg.schedule.ema_power is not None and "schedule.ema_power replaces it"}
    for text in overrides:
        option = text.lstrip("+~").partition("=")[0]
        for key, reason in void.items():
            if reason and re.fullmatch(key, option):
                raise UserError(f"{text} has no effect: {reason}; leave one of the two out")
        if reason := idle(cfg, text):
            if not in_sweep:
                raise UserError(f"{text} has no effect: {reason}; leave it out")
            log.warning("%s has no effect: %s", text, reason)


def idle(cfg: DictConfig, text: str) -> str:
    """Why the override `text` is for a stage that the run of `cfg` does not have; empty where it has it."""
    option = text.lstrip("+~").partition("=")[0]
    if cfg.schedule.steps == 0 and re.fullmatch(r"schedule\.(?!steps|name|rounds).*", option):
        return "schedule.steps=0 fine-tunes nothing"
    if re.fullmatch(r"pruner\.(calibration_batch|timesteps_per_pass)", option) and not takes_gradients(cfg.pruner):
        return f"pruner={cfg.pruner.name} takes no gradients"
    return ""


def takes_gradients(pruner: DictConfig) -> bool:
    """Whether the criterion needs a scoring pass; one that cannot be found is refused when it is made."""
    try:
        return getattr(get_object(pruner.criterion._target_), "gradient", True)
    except (ImportError, ValueError):
        return True


def check_pruner(pruner: DictConfig) -> None:
    """Refuses options of the pruner that contradict each other."""
    targets = [f"pruner.target.{name}={kept}" for name, kept in pruner.target.items() if kept is not None]
    if len(targets) > 1:
        raise UserError(f"{' and '.join(targets)} are two targets: choose one")
    if targets and not pruner.ratio:
        raise UserError(f"pruner={pruner.name} removes nothing (its ratio is 0), {targets[0]} asks it to: leave one out")
    if pruner.ratios is not None:
        if not isinstance(pruner.ratios, DictConfig) or not all(isinstance(r, int | float) for r in pruner.ratios.values()):
            raise UserError(f"pruner.ratios={pruner.ratios} gives no ratios: give for instance {{mid_block: .5}}")
        for name, ratio in pruner.ratios.items():
            check_value(f"pruner.ratios.{name}", ratio, 0, 1)
        if pruner.scope != "local" or targets or not pruner.ratio:
            raise UserError(f"pruner.ratios={pruner.ratios} goes with a ratio above 0 in pruner.scope=local, and with no "
                            "target: leave one out")
    if pruner.compensate != "none" and (pruner.reinitialise or not pruner.ratio):
        raise UserError(f"pruner.compensate={pruner.compensate} refits weights to the dense model's outputs, and pruner="
                        f"{pruner.name} {'draws fresh ones' if pruner.reinitialise else 'removes nothing'}: leave it out")
    first, last = (OmegaConf.select(pruner, f"timesteps.{end}") for end in ("first", "last"))
    if last is not None and last < first:
        raise UserError(f"pruner.timesteps.last={last} lies before pruner.timesteps.first={first}: choose a later one")


def check_rounds(cfg: DictConfig) -> None:
    """Refuses several rounds where one of them would have nothing to prune or nothing to fine-tune."""
    rounds, steps, pruner = cfg.schedule.rounds, cfg.schedule.steps, cfg.pruner
    if rounds == 1:
        return
    if steps < rounds:
        raise UserError(f"schedule.rounds={rounds} needs a training step in each round, schedule.steps={steps} is less: "
                        f"give schedule.steps={rounds} or more, or schedule.rounds=1")
    unfit = {"schedule.equal_cost=true, which counts the steps of a single round": cfg.schedule.equal_cost,
             f"pruner={pruner.name}, which removes nothing (its ratio is 0)": pruner.ratio == 0,
             "pruner.reinitialise=true, which discards the trained weights": pruner.reinitialise,
             "model.checkpoint=null, whose random weights hold nothing to fine-tune": cfg.model.checkpoint is None,
             f"pruner.ratios={pruner.ratios}, which are those of a single round": bool(pruner.ratios),
             f"pruner.scope={pruner.scope}, which cannot divide the ratio among rounds": pruner.scope != "local",
             "pruner.target, which finds its ratio in a single round": any(v is not None for v in pruner.target.values())}
    for what, chosen in unfit.items():
        if chosen:
            raise UserError(f"schedule.rounds={rounds} does not go with {what}: leave one of the two out")


def check_values(cfg: DictConfig) -> None:
    """Refuses unknown options, and values outside their choices or ranges; an option that is still `???` passes."""
    entries = list(options(cfg))
    if unknown := [key for key, _, metadata in entries if metadata is None]:
        raise UserError(f"{', '.join(unknown)} is no option: leave it out")
    for key, value, metadata in entries:
        check_value(key, value, **(metadata or {}))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", cfg.device):
        raise UserError(f"device={cfg.device} is not known: choose auto, cpu, cuda or cuda:N")
    # The classes of the timestep policies import torch, so their options are checked here.
    for key, low in (("pruner.timesteps.first", 0), ("pruner.timesteps.count", 1)):
        check_value(key, OmegaConf.select(cfg, key), low)


def options(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any] | None]]:
    """(dotted name, value, its field's metadata) of every option in `cfg` that has a value. The metadata is empty in a dict
    whose keys the schema leaves open, and None for an option that the schema lacks."""
    schema = OmegaConf.get_type(cfg)
    declared = {field.name: field.metadata for field in fields(schema)} if is_dataclass(schema) else None
    for key in map(str, cfg):
        metadata = {} if declared is None else declared.get(key)
        if OmegaConf.is_missing(cfg, key) or (key == "hydra" and not prefix):
            continue
        if metadata is not None and isinstance(cfg[key], DictConfig):
            yield from options(cfg[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", cfg[key], metadata


def check_value(key: str, value: Any, low: float = -inf, below: float = inf, choices: Sequence[Any] = (),
                or_class: bool = False, length: int | None = None, **_: Any) -> None:
    """Refuses a value outside `choices`, a list of another `length`, and a number, alone or in a list, that is outside
    [low, below) or not finite."""
    if choices and value not in choices and not (or_class and "." in str(value)):
        raise UserError(f"{key}={value} is not known: choose one of {', '.join(map(str, choices))}")
    several = isinstance(value, ListConfig)
    if several and length is not None and len(value) != length:
        raise UserError(f"{key}={value} is a list of {len(value)}: give {length} numbers")
    for number in value if several else [value]:
        if isinstance(number, ListConfig):
            check_value(key, number, low, below)
        elif isinstance(number, int | float) and not (isfinite(number) and low <= number < below):
            limits = f"[{low:g}, {below:g})" if isfinite(low) else "(-inf, inf)"
            raise UserError(f"{key}={value} is outside its range: choose {'values' if several else 'a value'} in {limits}")


def check_paths(cfg: DictConfig, only_warn: bool = False) -> None:
    """Refuses local files and folders that do not exist, or warns of them; a hub name or an address is looked up later."""
    try:
        check_places(cfg)
    except UserError as error:
        if not only_warn:
            raise
        log.warning("on this machine %s", error)


def check_places(cfg: DictConfig) -> None:
    """Raises UserError for the first path that is not there."""
    for key in ("paths.runs", "paths.cache"):
        path = Path(OmegaConf.select(cfg, key)).absolute()
        if (nearest := next(folder for folder in (path, *path.parents) if exists(folder))) and not is_folder(nearest):
            raise UserError(f"{key}={OmegaConf.select(cfg, key)} cannot be a folder, since {nearest} is none: give another")
    fetched = {"dataset.path": cfg.dataset.name in ON_THE_HUB, "evaluate.weights": cfg.evaluate.features == "dinov2"}
    for key in ("dataset.path", "dataset.labels", "evaluate.weights", "evaluate.reference"):
        path = OmegaConf.select(cfg, key)
        if path is not None and not exists(Path(path).expanduser()) and not (fetched.get(key) and is_hub_name(path)):
            raise UserError(f"{key}={path} does not exist: give the place of a local copy")
        if key != "dataset.path" and path is not None and not fetched.get(key) and is_folder(Path(path).expanduser()):
            raise UserError(f"{key}={path} is a folder: give a file")
    checkpoint = cfg.model.checkpoint
    if checkpoint is None or checkpoint.startswith("shipped:") or is_url(checkpoint) or is_hub_name(checkpoint):
        return
    if checkpoint.startswith(PAGE):
        raise UserError(f"the checkpoint of model={cfg.model.name} is published on a page that a program cannot fetch from, "
                        f"{checkpoint.removeprefix(PAGE)} ({origin(cfg.model)}): {by_hand(cfg.model)}")
    if is_file(Path(checkpoint).expanduser()):
        raise UserError(f"model.checkpoint={checkpoint} is a file: give a model folder, which python -m diffprune.convert "
                        "makes of an original checkpoint")
    if not is_folder(Path(checkpoint).expanduser()):
        raise UserError(f"model.checkpoint={checkpoint} does not exist: give a model folder, or null for random weights")
