"""Cutting channels out of a UNet: the ones that their scores call expendable, one dependency group after the other."""

from dataclasses import dataclass, field

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from diffprune import criteria
from diffprune.checkpoint import DiffusionModel, synchronise
from diffprune.cost import example_inputs, measure
from diffprune.criteria import Criterion
from diffprune.diffusion import Stream, generator
from diffprune.groups import SCORED, Graph, Group
from diffprune.importance import Terms, layer_terms, walk
from diffprune.selection import PaperSelection, Selection


@dataclass(frozen=True)
class PruneReport:
    """What pruning achieved: sizes, every layer's weight shape before and after, every group's removed root channels."""
    ratio: float
    params: int
    macs: int
    params_dense: int
    macs_dense: int
    layers: dict[str, dict[str, list[int]]]
    groups: list[dict]
    skipped: list[dict[str, str]] = field(default_factory=list)


def cut(unet: nn.Module, criterion: Criterion, ratio: float, terms: Terms | None = None, seed: int = 0,
        selection: Selection | None = None) -> PruneReport:
    """Prunes `unet` in place to nominal `ratio` in [0, 1), everything but the output head, and says what came of it.

    `terms` are the importance terms that `criterion.terms` names, per layer; `selection` is the paper's unless given.
    Raises ValueError for a ratio outside [0, 1) and KeyError for a missing term.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio {ratio} is outside [0, 1)")
    unet.requires_grad_(True).eval()
    selection, rng = selection or PaperSelection(), generator(seed, Stream.CHANNELS)
    terms = {name: dict((terms or {})[name]) for name in criterion.terms} if ratio else {}
    before, dense, report = shapes(unet), measure(unet), []
    graph = Graph(unet, example_inputs(unet), [unet.conv_out]) if ratio else None
    scores = {} if selection.lazy or not graph else {
        group.root: criterion.score(group.slices(terms), group.channels, rng) for group in graph.groups()}
    for group in graph.groups() if graph else ():
        score = scores[group.root] if scores else criterion.score(group.slices(terms), group.channels, rng)
        report.append(cut_group(group, score, ratio, selection, terms))
    synchronise(unet)
    cost, after = measure(unet), shapes(unet)
    layers = {name: {"before": before[name], "after": after[name]} for name in before}
    skipped = [{"layer": "conv_out", "reason": "the output head keeps the image's channels"},
               *({"layer": entry["root"], "reason": entry.pop("reason")} for entry in report if "reason" in entry)]
    return PruneReport(ratio, cost.params, cost.macs, dense.params, dense.macs, layers, report, skipped)


def cut_group(group: Group, score: Tensor, ratio: float, selection: Selection, terms: Terms) -> dict:
    """Cuts what `selection` chooses out of the model and of `terms` alike; returns what was done, or the reason why not."""
    channels, blocks = group.channels, group.norm_groups
    entry = {"root": group.root, "before": channels, "after": channels, "norm_groups": blocks,
             "layers": group.outputs, "removed": []}
    if channels % blocks:
        return entry | {"reason": f"{channels} channels do not fall into the norm's {blocks} groups"}
    chosen = selection.choose(score, ratio, blocks)
    if not chosen:
        return entry | {"reason": f"ratio {ratio:g} is less than one channel in each of the norm's {blocks} groups"}
    lost = group.remove(chosen)
    if not lost:
        return entry | {"reason": "a layer would be left without channels"}
    for layers in terms.values():
        for member in lost:
            layers[member.layer] = member.drop(layers[member.layer])
    return entry | {"after": channels - len(lost[0].indices), "removed": lost[0].indices}


def shapes(unet: nn.Module) -> dict[str, list[int]]:
    """Weight shape of every conv, linear and norm layer."""
    return {name: list(module.weight.shape) for name, module in unet.named_modules()
            if isinstance(module, SCORED) and module.weight is not None}


def reinitialise(unet: nn.Module, seed: int) -> None:
    """Fresh weights for every layer, PyTorch's default initialisation, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, Stream.WEIGHTS).initial_seed())
        for module in unet.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def prune(unet: nn.Module, ratio: float, criterion: Criterion | None = None, images: Tensor | None = None,
          scheduler: SchedulerMixin | None = None, threshold: float = 0.05, seed: int = 0,
          selection: Selection | None = None) -> PruneReport:
    """Prunes a UNet in place, scores included: Diff-Pruning at `threshold` unless another `criterion` is given.

    `ratio` in [0, 1) is nominal: read the sizes that were reached from the result. A criterion that needs gradients
    takes `images`, a batch [B, C, H, W] in [-1, 1], and the `scheduler` whose alpha_bar the UNet was trained with.
    Raises ValueError where one of them is missing or `ratio` is out of range.
    """
    criterion = criterion or criteria.DiffPruning()
    if not criterion.gradient:
        return cut(unet, criterion, ratio, layer_terms(unet, criterion.terms), seed, selection)
    if images is None or scheduler is None:
        raise ValueError(f"{type(criterion).__name__} needs gradients: give a batch of images and the noise scheduler")
    eps = torch.randn(images.shape, generator=generator(seed, Stream.CALIBRATION)).to(images.device)
    terms = walk(DiffusionModel(unet, scheduler), images, eps, [threshold]).terms[threshold]
    unet.zero_grad()
    return cut(unet, criterion, ratio, terms, seed, selection)
