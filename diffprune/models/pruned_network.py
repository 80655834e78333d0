"""A pruned network, opened by diffusers alone. A copy of this file lies as pruned.py beside the network's config.json, and

    DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    AutoModel.from_pretrained(FOLDER/unet, trust_remote_code=True)

build the widths that config.json lists under "_pruned": {"narrowed": {tensor: [dense shape, its shape]}, "heads": {layer:
how many are left}}. It imports torch and diffusers and nothing else.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

WIDTHS = "_pruned"      # diffusers keeps an option of such a name and passes it to no constructor


class PrunedNetwork(ModelMixin, ConfigMixin):
    """Stands in a folder's index for the network of diffusers that config.json names, with other widths."""
    config_name = "config.json"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """The network, as its own class in diffusers would load it."""
        place = {name: options[name] for name in ("subfolder", "cache_dir", "revision", "token", "local_files_only")
                 if name in options}
        config = cast("dict[str, Any]", cls.load_config(pretrained_model_name_or_path, **place))
        kind = getattr(diffusers, config["_class_name"])
        network = narrowed(kind).from_pretrained(pretrained_model_name_or_path, **options)
        network.__class__ = kind
        return network


def narrowed(kind: Any) -> Any:
    """The class `kind` of diffusers, whose networks are made as wide as their config says."""
    class Narrowed(kind):
        @classmethod
        def from_config(cls, config: dict[str, Any], **options: Any) -> Any:
            network = super().from_config({name: value for name, value in config.items() if name != "auto_map"}, **options)
            widths = config[WIDTHS]
            resize(network, {name: shape for name, (_, shape) in widths["narrowed"].items()})
            for name, count in widths.get("heads", {}).items():
                attention = network.get_submodule(name)
                attention.heads = attention.sliceable_head_dim = count
            synchronise(network)
            return network

    Narrowed.__name__ = kind.__name__       # config.json is compared with it
    return Narrowed


def resize(network: nn.Module, shapes: Mapping[str, Iterable[int]], device: torch.device | None = None) -> None:
    """Gives the weights that `shapes` names storage of that shape, without values, on `device` or where they are."""
    for name, module in network.named_modules():
        for leaf, weight in list(module.named_parameters(recurse=False)):
            full = f"{name}.{leaf}" if name else leaf
            if full in shapes:
                storage = torch.empty(tuple(shapes[full]), dtype=weight.dtype, device=device or weight.device)
                setattr(module, leaf, nn.Parameter(storage))


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
