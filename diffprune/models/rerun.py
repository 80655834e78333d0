"""Evaluations that are begun again and again, up to one module after the other, without computing anything twice."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class Reached(Exception):
    """The evaluation has come to where it is to end, with the module's first argument and its output."""


class Rerun:
    """Begins `evaluate`, a function without arguments that calls `network`, again and again, without gradients.

    What a module with weights returned at its first call is kept in the new `folder`, and read in later evaluations instead
    of being computed. So the memory holds what one evaluation needs, and the disk what modules that have ended hand to those
    that have not: a module's own output replaces those of the modules inside it.
    """

    def __init__(self, network: nn.Module, evaluate: Callable[[], Any], folder: Path) -> None:
        self.evaluate, self.folder = evaluate, folder
        self.modules = {name: module for name, module in network.named_modules()
                        if name and any(parameter.dim() > 1 for parameter in module.parameters())}
        self.kept: dict[str, tuple[TreeSpec, list[Any]]] = {}     # of outputs: their structure, None in a tensor's place
        self.ended: set[str] = set()
        folder.mkdir(parents=True)

    def call(self, name: str, keep: bool = True) -> tuple[Tensor, Tensor]:
        """First argument and output of the first call of the module `name`. The outputs of modules that end before it are
        kept, and with `keep` its own."""
        def reached(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            raise Reached(given[0] if given else next(iter(named.values())), output)

        with ExitStack() as patches:
            for other in self.kept:
                patches.callback(replace_forward(self.modules[other], lambda other=other: self.output(other)))
            for other, module in self.modules.items():
                if other not in self.ended and (other != name or keep):
                    patches.callback(module.register_forward_hook(
                        lambda _, __, output, other=other: self.keep(other, output)).remove)
            patches.callback(self.modules[name].register_forward_hook(reached, with_kwargs=True).remove)
            try:
                self.evaluate()
            except Reached as end:
                return end.args
        raise AssertionError(f"the network does not evaluate {name}")

    def keep(self, name: str, output: Any) -> None:
        """Keeps the `output` of a module's first call in the place of those of the modules inside it; not one that holds
        tensors where they are not found."""
        leaves, structure = tree_flatten(output)
        if name in self.ended or not all(isinstance(leaf, Tensor | str | int | float | None) for leaf in leaves):
            return
        tensors = {str(i): leaf.contiguous().clone() for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        save_file(tensors, self.file(name))
        self.kept[name] = structure, [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.ended.add(name)
        for inner in [other for other in self.kept if other.startswith(name + ".")]:
            del self.kept[inner]
            self.file(inner).unlink()

    def output(self, name: str) -> Any:
        """What the module `name` returned, as far as it is kept. The file is mapped: what nobody reads costs nothing."""
        structure, leaves = self.kept[name]
        tensors = load_file(self.file(name), device=str(next(self.modules[name].parameters()).device))
        return tree_unflatten([tensors.get(str(i), leaf) for i, leaf in enumerate(leaves)], structure)

    def forget(self, name: str) -> None:
        """The module `name`, whose weights have changed, will be computed again."""
        self.ended.remove(name)
        del self.kept[name]
        self.file(name).unlink()

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def replace_forward(module: nn.Module, output: Callable[[], Any]) -> Callable[[], None]:
    """Lets the next call of `module` return `output()`, and no later one; returns what undoes that."""
    own = vars(module).get("forward")       # of a module that another library has wrapped

    def undo() -> None:
        vars(module).pop("forward", None)
        if own is not None:
            module.forward = own

    def forward(*_: Any, **__: Any) -> Any:
        undo()
        return output()
    module.forward = forward
    return undo
