"""The options that change a run's result, and the name that follows from them."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffprune.config.schema import outside_the_name
from diffprune.config.sweep_words import sweep_words
from diffprune.runtime.addresses import without_secrets
from diffprune.runtime.errors import UserError

DIGITS = 12         # of a decimal that is meant
LONGEST_NAME = 240  # bytes, of 255: a lock file adds to it
# The data sets that only `dataset.path` identifies; under another `dataset.name` the name identifies them.
UNNAMED = ("image_folder", "captions")
# What `schedule.loss` was called before there were weighted terms: runs of these objectives keep their names.
FORMER_PRECISION = {"fp32": "no"}
FORMER_LOSSES = {"noise": {"noise": 1.0}, "distill": {"noise": 0.3, "output": 0.7},
                 "features": {"noise": 1.0, "attention_maps": 1.0}}


def run_folder(cfg: DictConfig, varied: Sequence[str] = ()) -> Path:
    """The folder of a run: `<paths.runs>/<data set>/<run name>`; raises UserError while an option is still `???`. Where the
    run has a folder already it is that, whatever the `varied` overrides of a sweep would add to its name."""
    parent = Path(cfg.paths.runs) / cfg.dataset.name
    return parent / known_name(science(cfg), folders_by_hash(parent), sweep_words(all_options(cfg), varied))


def run_name(cfg: DictConfig) -> str:
    """The name of the run's folder; raises UserError while an option is still `???`."""
    return name_of(science(cfg))


def name_of(options: dict[str, Any], further: Sequence[str] = ()) -> str:
    """`model-pruner[-T.05]-r.3-schedule[-further]-seed-hash` of a run with these scientific options: readable up to the
    hash, which alone tells runs apart. `further` words say what a sweep varies, as many as LONGEST_NAME has room for."""
    *words, seed = words_of(options)
    name = "-".join([options["model"]["name"], *words, *further, seed, fingerprint(options)])
    return name if len(name.encode()) <= LONGEST_NAME or not further else name_of(options, further[:-1])


def known_name(options: dict[str, Any], folders: Mapping[str, Sequence[str]], further: Sequence[str] = ()) -> str:
    """The name that a run with these scientific options has among the `folders` of runs, by hash; else `name_of` it."""
    *words, seed = words_of(options)
    begin, end = "-".join([options["model"]["name"], *words, ""]), f"{seed}-{fingerprint(options)}"
    names = [name for name in folders.get(fingerprint(options), ()) if name.startswith(begin) and name.endswith(end)]
    return min(names, key=len, default=name_of(options, further))


def folders_by_hash(parent: Path) -> dict[str, list[str]]:
    """{hash: the names that end in it} of what is in the folder `parent`; nothing where there is none."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(parent)):
            names.setdefault(name.rpartition("-")[2], []).append(name)
    return names


def words_of(options: dict[str, Any]) -> list[str]:
    """What a run does to its model, in words: [pruner, T.05, r.3, schedule, seed].

    A timestep policy replaces T (`window0_499`), a target replaces r (`macs.5`); a scope other than local, parts that are
    chosen (`parts`) and a compensation (`ridge`) follow it. Several rounds follow the schedule's name (`rounds3`).
    """
    pruner, schedule = options["pruner"], options["schedule"]
    words = [pruner["name"]]
    if "threshold" in pruner:
        words.append(f"T{pruner['threshold']:g}")
    if pruner["timesteps"] is not None:
        numbers = [f"{value:g}" for value in pruner["timesteps"].values() if isinstance(value, int | float)]
        words.append(pruner["timesteps"]["_target_"].rpartition(".")[2].lower() + "_".join(numbers))
    if pruner.get("ratio"):
        words.append(f"r{pruner['ratio']:g}")
    words += [f"{quantity}{kept:g}" for quantity, kept in pruner["target"].items() if kept is not None]
    if pruner["scope"] != "local":
        words.append(pruner["scope"])
    if {"only", "keep", "ratios"} & set(pruner):
        words.append("parts")
    if "compensate" in pruner:
        words.append(pruner["compensate"])
    words.append(schedule["name"])
    if schedule["rounds"] > 1:
        words.append(f"rounds{schedule['rounds']}")
    return [*words, f"s{options['seed']}"]


def science(cfg: DictConfig) -> dict[str, Any]:
    """The options that change the result, as a plain dict; raises UserError while one is still `???`."""
    return scientific(all_options(cfg))


def all_options(cfg: DictConfig) -> dict[str, Any]:
    """All options as a plain dict; raises UserError while one is still `???`."""
    return decimals(OmegaConf.to_container(masked(cfg), resolve=True))


def decimals(value: Any) -> Any:
    """A copy of nested dicts and lists with each number of binary fractions as the decimal that was meant: a range of
    Hydra's gives 0.30000000000000004 for .3."""
    if isinstance(value, dict):
        return {key: decimals(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [decimals(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def use_decimals(cfg: DictConfig) -> None:
    """Gives `cfg` the numbers that it is named by."""
    for key in map(str, cfg):
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        if isinstance(value := cfg[key], DictConfig):
            use_decimals(value)
        elif isinstance(value, float | ListConfig):
            exact = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
            if (meant := decimals(exact)) != exact:
                cfg[key] = meant


def scientific(options: dict[str, Any]) -> dict[str, Any]:
    """Removes from a run's `options`, in place, those that do not change the result, and returns the rest."""
    path = options["dataset"].get("path")
    for key in outside_the_name():
        branch_of(options, key).pop(key.rpartition(".")[2], None)
    if options["dataset"]["name"] in UNNAMED and path is not None:
        options["dataset"]["path"] = os.path.realpath(os.path.expanduser(path))
    # Runs from before these options had their names keep theirs; "auto" differs from its default in last bits alone.
    if "precision" in options:
        options["precision"] = FORMER_PRECISION.get(options["precision"], options["precision"])
    if options.get("memory_format") == "auto":
        options["memory_format"] = "contiguous"
    if not options["dataset"].get("held_out"):      # runs from before images were held out keep their names
        options["dataset"].pop("held_out", None)
    sampler = options.get("sampler", {})
    if sampler.get("scheduler") is None:      # runs from before there was this option keep their names
        sampler.pop("scheduler", None)
    else:       # a scheduler of diffusers has options of its own in their place
        sampler.pop("spacing", None)
        sampler.pop("clip", None)
    pruner = options["pruner"]
    if pruner.get("timesteps") is not None:     # a timestep policy replaces the threshold
        pruner.pop("threshold", None)
    if any(kept is not None for kept in (pruner.get("target") or {}).values()):     # a target replaces the ratio
        pruner.pop("ratio", None)
    if pruner.get("scope", "local") == "local":     # the floor holds for the other scopes only
        pruner.pop("floor", None)
    if pruner.get("compensate", "none") == "none":      # runs from before there was compensation keep their names
        pruner.pop("compensate", None)
        pruner.pop("compensation_images", None)
    for name in ("only", "keep", "ratios"):     # runs from before parts could be chosen keep their names
        if pruner.get(name) in (None, [], {}):
            pruner.pop(name, None)
    schedule = options["schedule"]
    if not schedule.get("unconditional"):   # runs from before there was this option keep their names
        schedule.pop("unconditional", None)
    if not schedule.get("equal_cost"):      # runs from before there was this option keep their names
        schedule.pop("equal_cost", None)
    if "objective" in schedule:
        schedule["objective"] = {term: weight for term, weight in schedule["objective"].items() if weight}
        if former := [name for name, weights in FORMER_LOSSES.items() if weights == schedule["objective"]]:
            schedule["loss"] = former[0]
            del schedule["objective"]
    return options


def prunes(options: dict[str, Any]) -> bool:
    """Whether a run with these scientific options removes channels; with a target they hold no ratio."""
    return options["pruner"].get("ratio") != 0


def branch_of(options: dict[str, Any], key: str) -> dict[str, Any]:
    """The dict that holds the last part of the dotted `key`; an empty one where there is none."""
    for parent in key.split(".")[:-1]:
        options = options.get(parent) or {}
    return options


def masked(cfg: DictConfig) -> DictConfig:
    """A copy without Hydra's own node, which cannot be resolved here, and without secrets in an address; raises UserError
    that names every missing option."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    if missing:
        raise UserError(f"nothing chosen for {', '.join(missing)}: give a value, for instance {missing[0]}=…")
    mask_address(own)
    return own


def mask_address(cfg: DictConfig) -> None:
    """Takes the secrets out of the model's address in `cfg`, if it has one."""
    if OmegaConf.select(cfg, "model.checkpoint") is not None:
        cfg.model.checkpoint = without_secrets(cfg.model.checkpoint)


def fingerprint(content: Any, digits: int = 8) -> str:
    """The first hex `digits` of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:digits]
