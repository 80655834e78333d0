"""Dependency groups: which slices of which layers must be removed together with a channel.

Built on Torch-Pruning's dependency graph; nothing else here uses that library for pruning.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch_pruning as tp
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from diffprune.models.cost import example_inputs
from diffprune.pruning.criteria import Slice

NORMS = (nn.GroupNorm, nn.LayerNorm)
SCORED = (nn.Conv2d, nn.Linear, *NORMS)
PROJECTIONS = ("to_q", "to_k", "to_v")


def scored_weights(module: nn.Module) -> dict[str, Tensor]:
    """{layer: its weight} of every convolution, linear layer and norm."""
    return {name: layer.weight for name, layer in module.named_modules()
            if isinstance(layer, SCORED) and layer.weight is not None}


@dataclass(frozen=True)
class Member:
    """A layer that a group reaches: the `indices` of its out-channels, in-channels (`of_input`) or norm channels."""
    layer: str
    module: nn.Module
    of_input: bool
    indices: list[int]

    def cut(self, term: Tensor) -> Tensor:
        """The rows of `term` ([O, I] or [C]) that belong to this member, [channels, others]."""
        if self.of_input:
            return term[:, self.indices].T
        rows = term[self.indices]
        return rows if rows.dim() > 1 else rows[:, None]

    def drop(self, term: Tensor) -> Tensor:
        """`term` without this member's channels."""
        axis = 1 if self.of_input else 0
        keep = sorted(set(range(term.shape[axis])) - set(self.indices))
        return term.index_select(axis, torch.tensor(keep, dtype=torch.long))


class Group:
    """All out-channels of a root layer with everything that must be removed with each of them, on the model as it is now.

    `norm_groups`: G of its GroupNorm (of several, their least common multiple), 1 where it holds none. `blocks`: the
    contiguous blocks that must stay equally long: norm groups, heads, or the parts that make up both. `outputs`: the layers
    whose out-channels these are, the root first. `topology`: the kinds of its member layers whatever their widths: type,
    whether in-channels, whether as many as the root's.
    """

    def __init__(self, graph: "Graph", items: tp.dependency.Group) -> None:
        self._graph, self._items = graph, items
        self.members = graph.members(items)
        self.root, self.channels = self.members[0].layer, len(self.members[0].indices)
        outputs = [m for m in self.members if not m.of_input]
        self.outputs = [m.layer for m in outputs if not isinstance(m.module, NORMS)]
        self.attention = next((a for m in outputs if (a := graph.attentions.get(m.module))), None)
        self.norm_groups = math.lcm(*(m.module.num_groups for m in self.members if isinstance(m.module, nn.GroupNorm)))
        self.blocks = math.lcm(self.norm_groups, self.heads)
        self.topology = tuple(sorted((type(m.module).__name__, m.of_input, len(m.indices) == self.channels)
                                     for m in self.members))

    @property
    def heads(self) -> int:
        """The heads among which the channels are divided, 1 where they are not those of an attention's projections."""
        return self.attention.heads if self.attention else 1

    @property
    def described_blocks(self) -> str:
        """The blocks in words."""
        named = [f"the norm's {self.norm_groups} groups"] * (self.norm_groups > 1 or self.heads == 1)
        return " and ".join(named + [f"the {self.heads} heads"] * (self.heads > 1))

    @cached_property
    def unit_count(self) -> int:
        """How many units can be removed one by one: the channels, or the hidden units of a gated feed-forward. That splits
        its root's channels into two halves; a hidden unit is channel i with its gate, channel i + C/2."""
        return self.channels // len(self._graph.subgroup(self._items, [0])[0].idxs)

    @property
    def gated(self) -> bool:
        """Whether the root is a gated feed-forward's."""
        return self.unit_count < self.channels

    @property
    def obstacle(self) -> str | None:
        """Why no channel of this group can be removed; None where that is possible."""
        if self.attention and self.heads > 1:
            # Channel i must be one query, key and value component, seen by nothing else but the output projection.
            tied = {m.module for m in self.members if len(m.indices) == self.channels}
            extras = (self.attention.norm_q, self.attention.norm_k, self.attention.add_k_proj)
            if not {getattr(self.attention, name) for name in PROJECTIONS} <= tied or any(e is not None for e in extras):
                return "only attention whose queries, keys and values are equally wide and not normalised can be narrowed"
        if self.channels % self.blocks:
            return f"{self.channels} channels do not fall into {self.described_blocks}"
        return None

    def kept_units(self, removed: list[int]) -> int:
        """How many units stay without the channels `removed` of the root: a gated one goes with either of its two."""
        return self.unit_count - len({channel % self.unit_count for channel in removed})

    def saved(self, costs: Mapping[str, float], count: int) -> float:
        """What removing `count` of the root's channels, and nothing else, saves of the `costs` {layer: that of its weight}:
        out-slices of the group's outputs and in-slices of their readers, and what is both only once. Norms, biases and the
        products inside attention are neglected."""
        kept: dict[str, float] = {}
        for m in self.members:
            if isinstance(m.module, nn.Conv2d | nn.Linear):
                removed = len(m.indices) * count / self.channels
                kept[m.layer] = kept.get(m.layer, 1.0) * (1 - removed / m.module.weight.shape[1 if m.of_input else 0])
        return sum(costs[layer] * (1 - fraction) for layer, fraction in kept.items())

    def slices(self, terms: Mapping[str, Mapping[str, Tensor]]) -> list[Slice]:
        """The slice of `terms` {term: {layer: tensor}} of each member that has as many channels as the root."""
        return [Slice(isinstance(m.module, NORMS), isinstance(m.module, nn.GroupNorm),
                      {name: m.cut(layers[m.layer]) for name, layers in terms.items()})
                for m in self.members if len(m.indices) == self.channels]

    def remove(self, channels: list[int]) -> list[Member]:
        """Removes the root's `channels` and all that depends on them from the model.

        Returns what each layer lost, the root first. Heads that lose all their channels are removed. Where a layer would be
        left without channels nothing is removed, and the list is empty.
        """
        items = self._graph.subgroup(self._items, channels)
        if not self._graph.dependencies.check_pruning_group(items):
            return []
        members = self._graph.members(items)
        items.prune()
        if self.attention:
            length = self.channels // self.heads
            left = {c // length for c in set(range(self.channels)) - set(channels)}
            self.attention.heads = self.attention.sliceable_head_dim = len(left)
        return members


class Graph:
    """The dependency graph of a denoiser; the layers whose names are in `fixed` keep their out-channels."""

    def __init__(self, unet: nn.Module, fixed: Iterable[str]) -> None:
        self.names = {module: name for name, module in unet.named_modules()}
        self.attentions = {getattr(module, name): module for module in unet.modules() if isinstance(module, Attention)
                           for name in PROJECTIONS}
        self.fixed = [unet.get_submodule(name) for name in fixed]
        with torch.enable_grad():
            # A fresh dict each time: the library's default is one shared dict that keeps every model alive.
            self.dependencies = tp.DependencyGraph().build_dependency(unet, example_inputs=example_inputs(unet),
                                                                      customized_pruners={})

    def groups(self) -> Iterator[Group]:
        """The groups in turn, each built when it is asked for, on the model as cut until then."""
        for items in self.dependencies.get_all_groups(ignored_layers=self.fixed, root_module_types=[nn.Conv2d, nn.Linear]):
            yield Group(self, self.rooted(items))

    def rooted(self, items: tp.dependency.Group) -> tp.dependency.Group:
        """The same group with its narrowest out-layer as the root. (A layer that makes a scale and a shift for each channel
        of another is twice as wide; the other is the root.)"""
        outs = [(dep, indices) for dep, indices in items
                if (member := self.member(dep, indices)) and not member.of_input and not isinstance(member.module, NORMS)]
        dep, indices = min(outs, key=lambda out: len(out[1]))
        if len(indices) == len(items[0].idxs):
            return items
        return self.dependencies.get_pruning_group(dep.target.module, dep.handler, list(range(len(indices))))

    def subgroup(self, items: tp.dependency.Group, channels: list[int]) -> tp.dependency.Group:
        """What must be removed with some of the root's `channels`."""
        root = items[0].dep
        return self.dependencies.get_pruning_group(root.target.module, root.handler, channels)

    def members(self, items: tp.dependency.Group) -> list[Member]:
        return [member for dep, indices in items if (member := self.member(dep, indices))]

    def member(self, dep: tp.dependency.Dependency, indices: list[int]) -> Member | None:
        """The scored layer behind a dependency; None for element-wise operations and the like."""
        module = dep.target.module
        if not isinstance(module, SCORED):
            return None
        of_input = not isinstance(module, NORMS) and self.dependencies.is_in_channel_pruning_fn(dep.handler)
        return Member(self.names[module], module, of_input, list(indices))
