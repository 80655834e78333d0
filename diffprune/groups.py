"""Dependency groups: which slices of which layers go together when a channel goes.

Built on Torch-Pruning's dependency graph, the only place where that library is touched for pruning.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from diffprune.criteria import Slice

NORMS = (nn.GroupNorm, nn.LayerNorm)
SCORED = (nn.Conv2d, nn.Linear, *NORMS)


@dataclass(frozen=True)
class Member:
    """One layer's part in a group: `indices` of its out-channels, in-channels (`of_input`) or norm channels."""
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
    """All channels of one root layer with everything that must go with each of them, on the model as it is now."""

    def __init__(self, graph: "Graph", items: tp.dependency.Group) -> None:
        self._graph, self._items = graph, items
        self.members = [member for dep, indices in items if (member := graph.member(dep, indices))]
        self.root = self.members[0].layer
        self.channels = len(self.members[0].indices)

    @property
    def norm_groups(self) -> int:
        """G of the group's GroupNorm, 1 where it holds none."""
        return next((m.module.num_groups for m in self.members if isinstance(m.module, nn.GroupNorm)), 1)

    @property
    def outputs(self) -> list[str]:
        """The layers whose out-channels these are: the root first, then those that are tied to it."""
        return [m.layer for m in self.members if not m.of_input and not isinstance(m.module, NORMS)]

    def slices(self, terms: Mapping[str, Mapping[str, Tensor]]) -> list[Slice]:
        """Per member its part of `terms` ({term: {layer: tensor}}); members of another length than the root are left out."""
        return [Slice(isinstance(m.module, NORMS), {name: m.cut(layers[m.layer]) for name, layers in terms.items()})
                for m in self.members if len(m.indices) == self.channels]

    def remove(self, channels: list[int]) -> list[Member]:
        """Cuts the root's `channels` and their dependents out of the model; returns what each layer lost.

        An empty list comes back, and nothing is cut, where a layer would be left without channels.
        """
        items = self._graph.subgroup(self._items, channels)
        if not self._graph.cuttable(items):
            return []
        members = [member for dep, indices in items if (member := self._graph.member(dep, indices))]
        items.prune()
        return members


class Graph:
    """The dependency graph of a UNet; `output_head` layers keep their channels."""

    def __init__(self, unet: nn.Module, inputs: dict[str, Tensor], output_head: list[nn.Module]) -> None:
        self._names = {module: name for name, module in unet.named_modules()}
        self._head = output_head
        with torch.enable_grad():
            # A fresh dict each time: the library's default is one shared dict that keeps every model alive.
            self._graph = tp.DependencyGraph().build_dependency(unet, example_inputs=inputs, customized_pruners={})

    def groups(self) -> Iterator[Group]:
        """One group after the other, each built when it is asked for: after the cuts made in those before."""
        for items in self._graph.get_all_groups(ignored_layers=self._head, root_module_types=[nn.Conv2d, nn.Linear]):
            yield Group(self, items)

    def member(self, dep: tp.dependency.Dependency, indices: list[int]) -> Member | None:
        """The scored layer behind a dependency; None for element-wise operations and the like."""
        module = dep.target.module
        if not isinstance(module, SCORED):
            return None
        of_input = not isinstance(module, NORMS) and self._graph.is_in_channel_pruning_fn(dep.handler)
        return Member(self._names[module], module, of_input, list(indices))

    def subgroup(self, items: tp.dependency.Group, channels: list[int]) -> tp.dependency.Group:
        root = items[0].dep
        return self._graph.get_pruning_group(root.target.module, root.handler, channels)

    def cuttable(self, items: tp.dependency.Group) -> bool:
        return bool(self._graph.check_pruning_group(items))
