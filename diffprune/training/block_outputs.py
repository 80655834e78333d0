"""The outputs of a UNet's down, middle and up blocks, which terms of an objective compare."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def blocks_of(unet: nn.Module) -> dict[str, nn.Module]:
    """{name: block} of the down, middle and up blocks of `unet`, plain or wrapped, in the order they run."""
    plain: Any = next(module for module in unet.modules() if hasattr(module, "down_blocks"))
    return {name: plain.get_submodule(name) for name in (
        *(f"down_blocks.{i}" for i in range(len(plain.down_blocks))), "mid_block",
        *(f"up_blocks.{i}" for i in range(len(plain.up_blocks))))}


def output_layers(unet: nn.Module) -> dict[str, int]:
    """{name of the last convolution of a block, whose out-channels are those of the block's output: their number}."""
    layers = {}
    for name, block in blocks_of(unet).items():
        convolutions = {f"{name}.{part}.{inner}": conv for part in ("resnets", "downsamplers", "upsamplers")
                        for inner, conv in (getattr(block, part, None) or nn.ModuleList()).named_modules()
                        if inner.rpartition(".")[2] in ("conv", "conv2") and isinstance(conv, nn.Conv2d)}
        last, conv = list(convolutions.items())[-1]
        layers[last] = conv.out_channels
    return layers


def kept_outputs(unet: nn.Module, kept: Callable[[str, int], list[int]]) -> list[Tensor]:
    """For each block of the dense `unet` the output channels that are left, where `kept` gives those of (layer, width)."""
    return [torch.tensor(kept(layer, width)) for layer, width in output_layers(unet).items()]


@contextmanager
def recorded_blocks(unet: nn.Module) -> Generator[Sequence[Tensor]]:
    """Within `with`, a list to which each block of `unet` adds its output [n, C, H, W] when it is evaluated."""
    outputs: list[Tensor] = []

    def record(block: nn.Module, arguments: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    hooks = [block.register_forward_hook(record) for block in blocks_of(unet).values()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
