"""The layers of a network, in order and by block."""

from itertools import groupby
from typing import Any

BLOCKS = {"conv_in": "in", "time_embedding": "time", "class_embedding": "class", "down_blocks": "down",
          "mid_block": "mid", "up_blocks": "up", "conv_norm_out": "out", "conv_out": "out"}     # as an image passes


def in_order(layers: dict[str, Any]) -> list[tuple[str, Any]]:
    """Layers as an image passes them; a UNet registers its middle block last."""
    place = {block: i for i, block in enumerate(BLOCKS)}
    return sorted(layers.items(), key=lambda item: place.get(item[0].split(".")[0], len(place)))


def block_labels(names: list[str]) -> list[tuple[float, str]]:
    """(index of its middle layer, short name such as `down 1`) of every block that has room for its name."""
    labels: list[tuple[float, str]] = []
    for name, members in groupby(range(len(names)), key=lambda i: block(names[i])):
        first, *_, last = [*members] * 2
        middle = (first + last) / 2
        if not labels or middle - labels[-1][0] > len(names) / 25:
            labels.append((middle, name))
    return labels


def block(name: str) -> str:
    first, number, *_ = [*name.split("."), ""]
    return f"{BLOCKS.get(first, first)} {number if number.isdecimal() else ''}".strip()
