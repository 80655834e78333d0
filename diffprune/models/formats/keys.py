"""Which key of an original checkpoint fills which tensor of a diffusers module, and what does not fit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffprune.runtime.errors import UserError

State = dict[str, Tensor]

LISTED = 10

# The DDIM code base, and CompVis' first stage after it, write attention projections as 1x1 convolutions.
POINTWISE_CONV = re.compile(r"\.(q|k|v|proj_out)\.weight$")

# What data parallelism and torch.compile put before the names.
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")


@dataclass(frozen=True)
class Filled:
    """A module to fill; `originals` maps each key of its state dict to the key of the original checkpoint."""
    module: nn.Module
    originals: Mapping[str, str]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Original key → the shape the original tensor has to have."""
        state = self.module.state_dict()
        return {original: original_shape(original, state[key]) for key, original in self.originals.items()}

    def load(self, state: State) -> None:
        """Copies the tensors of `state` into the module, as float32; it may be on the meta device until then."""
        target = self.module.state_dict()
        tensors = {key: state[original].reshape(target[key].shape) for key, original in self.originals.items()}
        self.module.to_empty(device="cpu").load_state_dict(tensors)


def original_shape(original: str, tensor: Tensor) -> tuple[int, ...]:
    """Shape of `tensor` in the checkpoint: a linear [out, in] may be stored as a 1x1 convolution [out, in, 1, 1]."""
    pointwise = tensor.ndim == 2 and POINTWISE_CONV.search(original)
    return (*tensor.shape, 1, 1) if pointwise else tuple(tensor.shape)


def as_state(content: Any) -> State:
    """`content` as a state dict, or the one among its entries ({"state_dict": …, "epoch": …}), without the names of wrappers
    around the network; UserError where there is none and where there are several."""
    entries = content if isinstance(content, Mapping) else {}
    inner = {str(key): value for key, value in entries.items() if isinstance(value, Mapping) and has_tensors(value)}
    if len(inner) > 1:
        raise UserError(f"there are several state dicts in it ({', '.join(inner)}): save the one that is meant alone")
    state = next(iter(inner.values()), entries)
    if not has_tensors(state):
        raise UserError("there is no state dict in it, a mapping from names to tensors")
    foreign = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise UserError(f"not a state dict, these entries are no tensors: {some_of(foreign)}")
    return {WRAPPERS.sub("", key): tensor for key, tensor in state.items()}


def has_tensors(entries: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in entries.values())


def check_finite(tensors: Mapping[str, Tensor], way_out: str = "give an earlier checkpoint of the training") -> None:
    """UserError where a tensor holds NaN or infinite numbers, as a training that overflowed leaves them."""
    if broken := [key for key, tensor in tensors.items()
                  if not (tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all()]:
        raise UserError(f"{len(broken)} of {len(tensors)} tensors hold NaN or infinite numbers ({some_of(broken)}): "
                        + way_out)


def fill(modules: Sequence[Filled], state: State) -> None:
    """Copies every tensor of `state` to its place in `modules`, or none: UserError lists each key that does not fit or
    is not finite."""
    expected = {original: shape for module in modules for original, shape in module.shapes().items()}
    problems = misfits(state, expected)
    if problems:
        raise UserError(f"{len(problems)} keys do not fit the architecture: {some_of(problems)}")
    check_finite({key: state[key] for key in expected})
    for module in modules:
        module.load(state)


def check_choice(weights: str | None, has_ema: bool) -> None:
    """UserError where `weights` ("model", "ema", None) does not say which of a checkpoint's weights are meant."""
    if weights == "ema" and not has_ema:
        raise UserError("there is no EMA beside the weights in it, leave --weights ema out")
    if weights is None and has_ema:
        raise UserError("it holds the trained weights and their EMA, choose with --weights model or --weights ema")


def misfits(state: State, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One phrase for each missing key, unknown key and wrong shape."""
    missing = [f"{key} is missing" for key in expected if key not in state]
    unknown = [f"{key} is unknown" for key in state if key not in expected]
    wrong = [f"{key} is {list(state[key].shape)} instead of {list(shape)}"
             for key, shape in expected.items() if key in state and tuple(state[key].shape) != shape]
    return missing + unknown + wrong


def some_of(items: list[str]) -> str:
    """The first ten, then how many more."""
    rest = len(items) - LISTED
    return "; ".join(items[:LISTED]) + (f"; and {rest} more" if rest > 0 else "")
