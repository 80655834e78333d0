"""What one evaluation of a network costs: parameters and multiply-accumulates."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from diffprune.models.families import family_for


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates of one evaluation on one image, as the paper counts them."""
    params: int
    macs: int


def example_inputs(unet: nn.Module, batch: int = 1) -> dict[str, Any]:
    """Arguments of one evaluation on `batch` images, in the order of the network's signature, on its device."""
    return tree_map_only(Tensor, lambda one: one.expand(batch, *one.shape[1:]), family_for(type(unet)).example_inputs(unet))


def measure(unet: nn.Module) -> Cost:
    """Counts as Torch-Pruning does: convolutions, linear layers, norms and biases, but no products inside attention."""
    import torch_pruning as tp
    meta_copy = weightless(unet)
    macs, params = tp.utils.count_ops_and_params(meta_copy, tuple(example_inputs(meta_copy).values()))
    return Cost(int(params), int(macs))


def weightless(unet: nn.Module) -> nn.Module:
    """A copy on the meta device, which has all shapes and no storage, so that evaluating it computes nothing."""
    tensors = [*unet.parameters(), *unet.buffers()]
    bare = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    bare |= {id(weight): nn.Parameter(bare[id(weight)], weight.requires_grad) for weight in unet.parameters()}
    return copy.deepcopy(unet, bare)


def true_macs(unet: nn.Module) -> int:
    """Multiply-accumulates of one evaluation with the products inside attention, by PyTorch's own counter."""
    return macs_by_module(unet)["Global"]


def layer_costs(unet: nn.Module) -> dict[str, Cost]:
    """{layer: the cost of its weight alone, without its bias} of every convolution and linear layer."""
    meta_copy = weightless(unet)
    macs, root = macs_by_module(meta_copy), type(meta_copy).__name__
    return {name: Cost(layer.weight.numel(), macs.get(f"{root}.{name}", 0)) for name, layer in meta_copy.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)}


def macs_by_module(unet: nn.Module) -> dict[str, int]:
    """{module: its multiply-accumulates in one evaluation} by PyTorch's own counter, whose names begin with the class of
    `unet`; the sum is under "Global"."""
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(**example_inputs(unet))
    # The counter calls a multiply-accumulate two operations.
    return {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
