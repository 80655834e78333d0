"""What the config of a pruned network lacks: its widths, which the tensors' shapes give, and its numbers of heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from diffprune.models.network import config_of, from_config
from diffprune.runtime.errors import UserError

Shapes = Mapping[str, torch.Size]


def narrow(unet: nn.Module, shapes: Shapes, heads: Any, folder: Path) -> None:
    """Gives every layer of `unet` storage for tensors of `shapes`, and its attentions the number of `heads` they have.

    Raises UserError, which names a file in `folder`, where the tensors' names or ranks or the heads do not fit.
    """
    own = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    wrong = sorted(set(own) ^ set(shapes)) + [n for n in own if n in shapes and len(own[n]) != len(shapes[n])]
    if wrong:
        raise UserError(f"the weights in {folder} do not belong to its config.json: {', '.join(wrong[:10])} "
                        f"({len(wrong)} tensors) are missing, unknown or of another rank")
    divided = narrowed_heads(unet, shapes)
    for name, module in unet.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            shape = shapes[f"{name}.{leaf}" if name else leaf]
            setattr(module, leaf, nn.Parameter(torch.empty(shape, dtype=parameter.dtype)))
    divide(unet, divided, heads, folder / "widths.json")
    synchronise(unet)


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


def synchronise(unet: nn.Module) -> None:
    """Makes every attribute that repeats a width follow the weights; diffusers asserts on some of them in forward."""
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
    for module in unet.modules():
        if isinstance(module, Downsample2D | Upsample2D) and isinstance(module.conv, nn.Conv2d):
            module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
        elif isinstance(module, ResnetBlock2D):
            for sampler in (module.downsample, module.upsample):        # without weights of its own
                if isinstance(sampler, Downsample2D | Upsample2D):
                    sampler.channels = sampler.out_channels = module.conv1.in_channels
        elif isinstance(module, Attention):
            module.inner_dim = module.inner_kv_dim = module.to_q.out_features
            to_k, to_out = cast("nn.Linear", module.to_k), cast("list[nn.Linear]", module.to_out)
            module.query_dim, module.cross_attention_dim = module.to_q.in_features, to_k.in_features
            module.out_dim = to_out[0].out_features
            module.scale = (module.inner_dim / module.heads) ** -0.5    # PAPER: the scale follows the current width


def narrowing(unet: nn.Module) -> dict[str, dict]:
    """`narrowed`: {tensor: [dense shape, its shape]} of every tensor that is narrower than the UNet's config says.

    `heads`: {layer: how many are left} of every narrowed attention that the config gives several; left out where none is.
    """
    with torch.device("meta"):
        dense = from_config(type(unet), config_of(unet))
    shapes_dense, shapes = ({name: tensor.shape for name, tensor in net.state_dict().items()} for net in (dense, unet))
    heads = {name: unet.get_submodule(name).heads for name in narrowed_heads(dense, shapes)}
    listed = {name: [list(shapes_dense[name]), list(shape)] for name, shape in shapes.items() if shape != shapes_dense[name]}
    return {"narrowed": listed} | ({"heads": heads} if heads else {})


def narrowed_heads(dense: nn.Module, shapes: Shapes) -> list[str]:
    """The attentions of `dense` with several heads whose queries are narrower in `shapes`: the shapes do not
    show how many heads are left."""
    return [name for name, module in dense.named_modules() if isinstance(module, Attention) and module.heads > 1
            and module.to_q.weight.shape[0] != shapes[f"{name}.to_q.weight"][0]]
