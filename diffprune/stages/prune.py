"""Stage 2: the model without its least important channels."""

import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from diffprune.evaluation.speed import LATENCY_ROUNDS, Latency, latency_share
from diffprune.models.cost import measure
from diffprune.models.device import CPU, Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.compensation import NoisedImages, compensate, positions
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.scores import Scores, Terms
from diffprune.pruning.surgery import cut, reinitialise
from diffprune.pruning.target import distinct_ratios, search, size_kept
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from diffprune.stages import options
from diffprune.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def stage(cfg: DictConfig, run: Run, tracker: Tracker) -> None:
    """Writes `pruned/` and then `prune.json`, which compares with the dense model also in later rounds. With a target it
    says what was reached."""
    start, model, terms = time.monotonic(), options.load_start(cfg, run), Scores.read(run.scores).terms
    criterion, about = options.criterion(cfg), {}
    allocation = options.allocation(cfg, run.round.ratio(cfg.pruner.ratio))
    if target := options.pruning_target(cfg):
        allocation, about = with_target(cfg, *target, model.unet, criterion, allocation, terms)
    earlier = PruneReport.read(run.previous.prune_report) if run.previous else None
    # Prune, and write the model before the report, whose presence says that this stage is complete.
    dense, kept = (copy.deepcopy(model), positions(model.unet)) if cfg.pruner.compensate != "none" else (None, None)
    report = cut(model.unet, criterion, allocation, terms, cfg.seed, earlier, kept)
    if allocation.ratio and run.round.last and not any(group["removed"] for group in report.groups):
        roots = [group["root"] for group in report.groups]
        (reason, _), = Counter(entry["reason"] for entry in report.skipped if entry["layer"] in roots).most_common(1)
        raise UserError(f"pruner.ratio={allocation.ratio:g} removes nothing, mostly because {reason}: choose another ratio, "
                        "or pruner=none for the dense model")
    if cfg.pruner.reinitialise:
        reinitialise(model.unet, cfg.seed)
    if dense is not None and kept is not None:
        about |= {"compensation": compensation(cfg, run, model, dense, kept)}
    save_model(model, run.pruned)
    write_json(run.prune_report, asdict(report) | about | {"seconds": round(time.monotonic() - start, 3)},
               checksum=True)
    log.info("pruned %.2f M to %.2f M parameters, %.3f G to %.3f G MACs", report.params_dense / 1e6, report.params / 1e6,
             report.macs_dense / 1e9, report.macs / 1e9)
    if tracker.keeps_images and find_spec("vl_convert") and run.round.last and allocation.ratio:
        track_widths(cfg.pruner.name, asdict(report)["layers"], tracker)


def compensation(cfg: DictConfig, run: Run, pruned: DiffusionModel, dense: DiffusionModel,
                 kept: Mapping[str, Tensor]) -> dict[str, Any]:
    """Refits, in float32, the layers of `pruned` that lost inputs to the model before the cut; returns what prune.json says
    of it."""
    start, device = time.monotonic(), options.execution(cfg).device
    _, x_0, labels = options.calibration(cfg, run, dense, "compensation_images")
    pruned.to(device)
    dense.to(device)
    x_0, context = dense.to_latent(x_0.to(device)), dense.context(labels)
    layers = compensate(pruned, dense, kept, NoisedImages.draw(dense, x_0, cfg.seed, context), folder=run.folder)
    pruned.to(CPU)
    evaluation = measure(pruned.unet).macs + measure(dense.unet).macs
    macs = sum(layer["macs"] for layer in layers.values()) + len(x_0) * evaluation
    seconds = time.monotonic() - start
    mean_error = {when: fmean([layer[when] for layer in layers.values()] or [0.0]) for when in ("before", "after")}
    log.info("compensated %d layers in %.0f s: mean relative error %.3f, was %.3f", len(layers), seconds,
             mean_error["after"], mean_error["before"])
    return {"images": len(x_0), "seconds": round(seconds, 3), "macs": macs, "layers": layers}


def track_widths(title: str, layers: dict[str, Any], tracker: Tracker) -> None:
    """Gives the tracker a figure of every layer's width, dense and pruned."""
    from diffprune.report.figures.channels import width_chart  # half a second to import, for those who track images
    from diffprune.report.figures.chart import Absent
    from diffprune.report.figures.render import draw
    chart = width_chart([(title, layers)])
    if not isinstance(chart, Absent):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "widths.png"
            path.write_bytes(draw(chart).png)
            tracker.image("widths", path)


def with_target(cfg: DictConfig, quantity: str, target: float, unet: nn.Module, criterion: Criterion,
                allocation: Allocation, terms: Terms) -> tuple[Allocation, dict[str, Any]]:
    """The allocation with the ratio that keeps the fraction `target` of a quantity, and what prune.json says of it."""
    ratios, measured = distinct_ratios(copy.deepcopy(unet).to("meta"), allocation), {}
    if quantity == "latency":
        timed = latency_kept(unet, criterion, allocation, terms, cfg.seed, options.execution(cfg))
        match = search(quantity, target, lambda ratio: timed(ratio, LATENCY_ROUNDS).share, ratios)
        # The search takes the luckiest of several noisy measurements: the model it finds is measured again.
        again = timed(match.ratio, 3 * LATENCY_ROUNDS)
        match, measured = replace(match, reached=again.share), {"measured": asdict(again)}
    else:
        match = search(quantity, target, size_kept(quantity, unet, criterion, allocation, terms, cfg.seed), ratios)
    log.info("ratio %g leaves %.4f of the dense model's %s (target %g)", match.ratio, match.reached, quantity, target)
    return replace(allocation, ratio=match.ratio), {"target": asdict(match) | measured}


def latency_kept(unet: nn.Module, criterion: Criterion, allocation: Allocation, terms: Terms, seed: int,
                 execution: Execution) -> Callable[[float, int], Latency]:
    """(ratio, rounds) -> the fraction of the dense model's time that a copy of `unet` takes when pruned at the ratio."""
    dense = execution.format(copy.deepcopy(unet)).to(execution.device)

    def timed(ratio: float, rounds: int) -> Latency:
        cut(pruned := copy.deepcopy(unet), criterion, replace(allocation, ratio=ratio), terms, seed)
        with execution.autocast():
            return latency_share(execution.format(pruned).to(execution.device), dense, rounds)
    return timed
