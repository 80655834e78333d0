"""The options that change a run's result, and the name that follows from them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffprune.runtime.errors import UserError

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


def run_folder(cfg: DictConfig) -> Path:
    """The folder of the run that `cfg` describes; nothing is created."""
    return Path(cfg.paths.runs) / cfg.dataset.name / run_name(cfg)


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
