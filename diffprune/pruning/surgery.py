"""Cutting channels out of a denoiser, one dependency group after the other."""

from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed
from omegaconf import DictConfig
from torch import Tensor, nn

from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.cost import example_inputs, measure
from diffprune.models.widths import synchronise
from diffprune.pruning.allocation import Past, Rule
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.dependency import SCORED, Graph, Group
from diffprune.pruning.importance import Terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS, PaperSelection, Selection

OUTPUT_HEADS = ("conv_out", "proj_out_2")


def cut(unet: nn.Module, criterion: Criterion, ratio: float, terms: Terms | None = None, seed: int = 0,
        selection: Selection | None = None, heads: str = "equal", round_to: int | None = None, scope: str = "local",
        floor: float = 0.1, earlier: PruneReport | None = None) -> PruneReport:
    """Prunes `unet` in place to nominal `ratio` in [0, 1), all that can be, and says what came of it.

    `terms` are the importance terms that `criterion.terms` names, per layer; `selection` is the paper's unless given;
    `heads`, `round_to`, `scope` and `floor` are those of `Rule`. After an `earlier` pruning of the same network `ratio` is
    still that of the dense one's widths, to which the report compares. Raises ValueError for a value outside its range and
    KeyError for a missing term.
    """
    past = Past.of(earlier) if earlier else None
    rule = Rule(ratio, selection or PaperSelection(), heads, round_to, scope, floor, past)
    unet.requires_grad_(True).eval()
    rng, untouched = generator(seed, Stream.CHANNELS, *([len(earlier.rounds)] if earlier else [])), keeping_all(unet)
    terms = {name: dict((terms or {})[name]) for name in criterion.terms} if ratio else {}
    before, dense, report = shapes(unet), measure(unet), []
    graph = Graph(unet, example_inputs(unet), [unet.get_submodule(name) for name in untouched]) if ratio else None

    def score(group: Group) -> Tensor | None:
        return None if group.obstacle else criterion.score(group.slices(terms), group.channels, rng)

    dense_groups = list(graph.groups()) if graph and rule.eager else []
    scores = {group.root: score(group) for group in dense_groups}
    allotted = rule.allot(dense_groups, scores)
    for group in graph.groups() if graph else ():
        report.append(cut_group(group, scores[group.root] if scores else score(group), rule, terms,
                                allotted.get(group.root)))
    synchronise(unet)
    cost, after = measure(unet), shapes(unet)
    layers = {name: {"before": before[name], "after": after[name]} for name in before}
    skipped = [*({"layer": name, "reason": reason} for name, reason in untouched.items()),
               *({"layer": entry["root"], "reason": entry.pop("reason")} for entry in report if "reason" in entry)]
    this = PruneReport(ratio, cost.params, cost.macs, dense.params, dense.macs, layers, report, skipped,
                       [{"ratio": ratio, "params": cost.params, "macs": cost.macs}])
    return this.since(earlier) if earlier else this


def asked(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `cut` that the configuration gives, the ratio aside."""
    pruner = cfg.pruner
    return {"seed": cfg.seed, "selection": SELECTIONS[pruner.selection](), "heads": pruner.heads,
            "round_to": pruner.round_to, "scope": pruner.scope, "floor": pruner.floor}


def cut_group(group: Group, score: Tensor | None, rule: Rule, terms: Terms, count: int | None = None) -> dict:
    """Cuts what `rule` chooses out of the model and of `terms` alike; returns what was done, or the reason why not.

    `score` [C] may be None where the group has an obstacle; `count` portions go beyond the local scope.
    """
    entry = {"root": group.root, "before": group.channels, "after": group.channels, "norm_groups": group.norm_groups,
             "layers": group.outputs, "removed": []}
    if group.heads > 1:
        entry["heads"] = {"before": group.heads, "after": group.heads}
    chosen, reason = rule.choose(group, score, count)
    if reason:
        return entry | {"reason": reason}
    lost = group.remove(chosen)
    if not lost:
        return entry | {"reason": "a layer would be left without channels"}
    for layers in terms.values():
        for member in lost:
            layers[member.layer] = member.drop(layers[member.layer])
    if "heads" in entry:
        entry["heads"]["after"] = group.heads
    removed = sorted(lost[0].indices)
    return entry | {"after": group.channels - len(removed), "removed": removed}


def keeping_all(unet: nn.Module) -> dict[str, str]:
    """The layers whose out-channels stay, and why; raises ValueError for a network whose output head is not known."""
    layers = {name: "the output head keeps the image's channels" for name in OUTPUT_HEADS if hasattr(unet, name)}
    if not layers:
        raise ValueError(f"{type(unet).__name__} has no output head of a known name ({', '.join(OUTPUT_HEADS)})")
    return layers | {f"{name}.proj": "the residual stream is added to a position embedding of fixed width"
                     for name, module in unet.named_modules() if isinstance(module, PatchEmbed)}


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
