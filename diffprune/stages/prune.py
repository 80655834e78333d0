"""Stage 2: the model without the channels that the scores call expendable."""

import copy
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import safe_open
from torch import nn

from diffprune.evaluation.latency import ROUNDS, Latency, latency_share
from diffprune.models.dense import load_start
from diffprune.models.device import autocast, device_of, formatted
from diffprune.models.model_folder import save_model
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.importance import Terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS
from diffprune.pruning.surgery import asked, cut, reinitialise
from diffprune.pruning.target import Found, distinct_ratios, find, size_share
from diffprune.runs.run import Run
from diffprune.runtime.files import write_json
from diffprune.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def read_terms(path: Path) -> Terms:
    """The importance terms of a scores file."""
    terms: Terms = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():     # noqa: SIM118  (a safetensors handle is no mapping)
            if key.startswith("terms/"):
                _, term, layer = key.split("/", 2)
                terms.setdefault(term, {})[layer] = file.get_tensor(key)
    return terms


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `pruned/` and then `prune.json`, which compares with the dense model whatever the round.

    Where a target was given it says what was reached.
    """
    start, model, terms = time.monotonic(), load_start(cfg, run), read_terms(run.scores)
    criterion, about, ratio = instantiate(cfg.pruner.criterion), {}, run.round.ratio(cfg.pruner.ratio)
    earlier = PruneReport.read(run.before.prune_report) if run.before else None
    for quantity, share in cfg.pruner.target.items():
        if share is not None:
            found, noise = reached(cfg, quantity, share, model.unet, criterion, terms)
            about, ratio = {"target": asdict(found) | noise}, found.ratio
            log.info("ratio %g leaves %.4f of the dense model's %s (target %g)", ratio, found.reached, quantity, share)
    report = cut(model.unet, criterion, ratio, terms, **asked(cfg), earlier=earlier)
    if cfg.pruner.reinitialise:
        reinitialise(model.unet, cfg.seed)
    save_model(model, run.pruned)
    write_json(run.prune_report, asdict(report) | about | {"seconds": round(time.monotonic() - start, 3)})
    log.info("pruned %.2f M to %.2f M parameters, %.3f G to %.3f G MACs", report.params_dense / 1e6, report.params / 1e6,
             report.macs_dense / 1e9, report.macs / 1e9)


def reached(cfg: DictConfig, quantity: str, share: float, unet: nn.Module, criterion: Criterion,
            terms: Terms) -> tuple[Found, dict[str, Any]]:
    """The ratio for a target; of a latency, which is noisy, with how it was measured once the ratio was found."""
    ratios = distinct_ratios(copy.deepcopy(unet).to("meta"), SELECTIONS[cfg.pruner.selection](), cfg.pruner.scope)
    if quantity != "latency":
        return find(quantity, share, size_share(quantity, unet, criterion, terms, asked(cfg)), ratios), {}
    device = device_of(cfg)
    dense = formatted(copy.deepcopy(unet), cfg).to(device)

    def timed(ratio: float, rounds: int = ROUNDS) -> Latency:
        pruned = copy.deepcopy(unet)
        cut(pruned, criterion, ratio, terms, **asked(cfg))
        with autocast(cfg, device):
            return latency_share(formatted(pruned, cfg).to(device), dense, rounds)

    found = find(quantity, share, lambda ratio: timed(ratio).share, ratios)
    again = timed(found.ratio, 3 * ROUNDS)      # the search takes the luckiest of several noisy measurements
    return Found(quantity, share, again.share, found.ratio, found.steps), {"measured": asdict(again)}
