"""What the config of a pruned network lacks: its widths, which the tensors' shapes give, and its numbers of heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from diffprune.models.network import config_of, from_config
from diffprune.models.pruned_network import WIDTHS as NOTED
from diffprune.models.pruned_network import resize, synchronise
from diffprune.runtime.errors import UserError

Shapes = Mapping[str, torch.Size]


def narrow(unet: nn.Module, shapes: Shapes, heads: Any, folder: Path) -> bool:
    """Gives every layer of `unet` storage for tensors of `shapes`, and its attentions the number of `heads` they have.
    Returns whether any tensor is narrower than it was.

    Raises UserError, which names a file in `folder`, where the tensors' names or ranks or the heads do not fit.
    """
    own = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    wrong = sorted(set(own) ^ set(shapes)) + [n for n in own if n in shapes and len(own[n]) != len(shapes[n])]
    if wrong:
        raise UserError(f"the weights in {folder} do not belong to its config.json: {', '.join(wrong[:10])} "
                        f"({len(wrong)} tensors) are missing, unknown or of another rank")
    divided = narrowed_heads(unet, shapes)
    resize(unet, shapes, torch.device("cpu"))
    divide(unet, divided, heads, folder / "widths.json")
    synchronise(unet)
    return any(own[name] != shape for name, shape in shapes.items())


def divide(unet: nn.Module, divided: list[str], heads: Any, file: Path) -> None:
    """Sets the number of heads of the attentions `divided` to what `heads` lists; raises UserError where it does not fit."""
    if not isinstance(heads, dict) or set(heads) != set(divided):
        raise UserError(f"{file} must list under \"heads\" how many are left of each attention that was narrowed, "
                        f"{', '.join(divided[:3]) or 'none'} ({len(divided)} in all): copy the folder again")
    for name, count in heads.items():
        attention = unet.get_submodule(name)
        assert isinstance(attention, Attention)
        width = attention.to_q.weight.shape[0]
        if type(count) is not int or not 1 <= count <= attention.heads or width % count:
            raise UserError(f"{file} gives {name} {count!r} heads, into which its {width} channels do not fall: "
                            "copy the folder again")
        attention.heads = attention.sliceable_head_dim = count


def note_widths(unet: nn.Module) -> dict[str, dict]:
    """Writes `narrowing` into the config of a narrowed network, which diffusers saves with it; returns it."""
    widths, config = narrowing(unet), cast("Any", unet)
    if widths["narrowed"] or NOTED in config_of(unet):
        config.register_to_config(**{NOTED: widths})
    return widths


def narrowing(unet: nn.Module) -> dict[str, dict]:
    """`narrowed`: {tensor: [dense shape, its shape]} of every tensor that is narrower than the UNet's config says.

    `heads`: {layer: how many are left} of every narrowed attention that the config gives several; left out where none is.
    """
    with torch.device("meta"):
        dense = from_config(type(unet), config_of(unet))
    shapes_dense, shapes = ({name: tensor.shape for name, tensor in net.state_dict().items()} for net in (dense, unet))
    heads = {name: unet.get_submodule(name).heads for name in narrowed_heads(dense, shapes)}
    listed = {name: [list(shapes_dense[name]), list(shape)] for name, shape in shapes.items()
              if shape != shapes_dense.get(name, shape)}
    return {"narrowed": listed} | ({"heads": heads} if heads else {})


def narrowed_heads(dense: nn.Module, shapes: Shapes) -> list[str]:
    """The attentions of `dense` with several heads whose queries are narrower in `shapes`: the shapes do not
    show how many heads are left."""
    return [name for name, module in dense.named_modules() if isinstance(module, Attention) and module.heads > 1
            and module.to_q.weight.shape[0] != shapes[f"{name}.to_q.weight"][0]]
