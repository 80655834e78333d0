"""Removing channels from a denoiser, one dependency group after the other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed
from torch import Generator, Tensor, nn

from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.cost import layer_costs, measure
from diffprune.models.pruned_network import synchronise
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.dependency import Graph, Group, scored_weights
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.scores import Terms

OUTPUT_HEADS = ("conv_out", "proj_out_2")


def cut(unet: nn.Module, criterion: Criterion, allocation: Allocation, terms: Terms | None = None, seed: int = 0,
        earlier: PruneReport | None = None, kept: dict[str, Tensor] | None = None) -> PruneReport:
    """Prunes `unet` in place as `allocation` says, and reports what was reached.

    `terms` are the importance terms of every layer that `criterion` reads; `seed` is for criteria that draw at random. After
    an `earlier` pruning of the same network the ratio is still that of the dense widths, to which the report compares.
    `kept` are the network's `positions`, which are cut in place like its weights: afterwards they say what is left of each.
    Raises KeyError for a missing term, ValueError for a network whose output head is not known, and UserError for a pattern
    of a part that fits no layer.
    """
    if earlier:
        allocation = replace(allocation, previous=earlier)
    allocation.parts.check(unet)
    unet.requires_grad_(True).eval()
    fixed, old_shapes, dense = fixed_layers(unet), shapes(unet), measure(unet)
    rng = generator(seed, Stream.CHANNELS, *([len(earlier.rounds)] if earlier else []))
    # A copy of the terms, which are cut together with the model.
    remaining = {name: dict((terms or {})[name]) for name in criterion.terms} if allocation.ratio else {}
    remaining |= {} if kept is None else {"position": kept}
    outcomes = cut_groups(unet, fixed, criterion, allocation, remaining, rng) if allocation.ratio else []
    synchronise(unet)
    cost, after = measure(unet), shapes(unet)
    reasons = fixed | {entry["root"]: reason for entry, reason in outcomes if reason}
    report = PruneReport(
        allocation.ratio, cost.params, cost.macs, dense.params, dense.macs,
        {name: {"before": old_shapes[name], "after": after[name]} for name in old_shapes}, [entry for entry, _ in outcomes],
        [{"layer": layer, "reason": reason} for layer, reason in reasons.items()],
        [{"ratio": allocation.ratio, "params": cost.params, "macs": cost.macs}])
    return report.following(earlier) if earlier else report


def cut_groups(unet: nn.Module, fixed: Mapping[str, str], criterion: Criterion, allocation: Allocation, terms: Terms,
               rng: Generator) -> list[tuple[dict[str, Any], str]]:
    """Cuts every group but those of the layers `fixed`; gives for each what `cut_group` does."""
    graph = Graph(unet, fixed)

    def score(group: Group) -> Tensor | None:
        return None if group.obstacle else criterion.score(group.slices(terms), group.channels, rng)

    # A ranking over several groups needs all scores before the first cut; otherwise each group is scored in its turn.
    dense_groups = list(graph.groups()) if allocation.scores_dense else []
    scores = {group.root: score(group) for group in dense_groups}
    costs = layer_costs(unet) if allocation.scope == "cost_aware" else {}
    counts = allocation.portion_counts(dense_groups, scores, costs)
    return [cut_group(group, scores[group.root] if scores else score(group), allocation, terms, counts.get(group.root))
            for group in graph.groups()]


def cut_group(group: Group, score: Tensor | None, allocation: Allocation, terms: Terms,
              count: int | None = None) -> tuple[dict[str, Any], str]:
    """Removes the channels that `allocation` chooses by `score` [C] from the model and from `terms`.

    `score` may be None where the group has an obstacle; `count` is the number of portions beyond the local scope. Returns
    the group's entry in the report, and if nothing was removed the reason.
    """
    heads = group.heads
    chosen, reason = allocation.choose(group, score, count)
    lost = group.remove(chosen) if chosen else []
    for layers in terms.values():
        for member in lost:
            layers[member.layer] = member.drop(layers[member.layer])
    removed = sorted(lost[0].indices) if lost else []
    entry = {"root": group.root, "before": group.channels, "after": group.channels - len(removed),
             "norm_groups": group.norm_groups, "layers": group.outputs, "removed": removed}
    if heads > 1:
        entry["heads"] = {"before": heads, "after": group.heads}
    return entry, "" if lost else reason or "a layer would be left without channels"


def fixed_layers(unet: nn.Module) -> dict[str, str]:
    """{layer whose out-channels are all kept: the reason}; raises ValueError for a network of an unknown output head."""
    layers = {name: "the output head keeps the image's channels" for name in OUTPUT_HEADS if hasattr(unet, name)}
    if not layers:
        raise ValueError(f"{type(unet).__name__} has no output head of a known name ({', '.join(OUTPUT_HEADS)})")
    return layers | {f"{name}.proj": "the residual stream is added to a position embedding of fixed width"
                     for name, module in unet.named_modules() if isinstance(module, PatchEmbed)}


def shapes(unet: nn.Module) -> dict[str, list[int]]:
    """The weight shape of every convolution, linear layer and norm."""
    return {layer: list(weight.shape) for layer, weight in scored_weights(unet).items()}


def reinitialise(unet: nn.Module, seed: int) -> None:
    """Gives every layer PyTorch's default initialisation, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, Stream.WEIGHTS).initial_seed())
        for module in unet.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
