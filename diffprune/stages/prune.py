"""Stage 2: the model without the channels that the scores call expendable."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import safe_open

from diffprune.checkpoint import save_model
from diffprune.files import write_json
from diffprune.importance import Terms
from diffprune.models import load_dense
from diffprune.run import Run
from diffprune.selection import SELECTIONS
from diffprune.surgery import cut, reinitialise
from diffprune.track import Tracker

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
    """Writes `pruned/` and then `prune.json`."""
    start, model = time.monotonic(), load_dense(cfg)
    criterion = instantiate(cfg.pruner.criterion)
    report = cut(model.unet, criterion, cfg.pruner.ratio, read_terms(run.scores), cfg.seed,
                 SELECTIONS[cfg.pruner.selection](), cfg.pruner.heads, cfg.pruner.round_to, cfg.pruner.scope,
                 cfg.pruner.floor)
    if cfg.pruner.reinitialise:
        reinitialise(model.unet, cfg.seed)
    save_model(model, run.pruned)
    write_json(run.prune_report, asdict(report) | {"seconds": round(time.monotonic() - start, 3)})
    log.info("pruned %.2f M to %.2f M parameters, %.3f G to %.3f G MACs", report.params_dense / 1e6, report.params / 1e6,
             report.macs_dense / 1e9, report.macs / 1e9)
