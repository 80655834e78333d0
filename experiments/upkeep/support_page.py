"""`python -m experiments.upkeep.support_page`: which networks of diffusers are pruned, and what of them stays as it was.

Prunes a small network of every known class at nominal ratio .5, with random weights; writes the table of `docs/models.md`.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from diffusers.models import transformers, unets
from tabulate import tabulate
from torch import nn

from diffprune.models.families import predictors
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Random
from diffprune.pruning.surgery import cut
from experiments.upkeep import ROOT, replaced

PAGE = ROOT / "docs" / "models.md"
RATIO = 0.5
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
RESNETS = {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
           "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D")}
# Of the transformers those that people ask for; diffusers has about eighty.
ASKED_FOR = ("AuraFlowTransformer2DModel", "FluxTransformer2DModel", "HunyuanDiT2DModel", "PixArtTransformer2DModel",
             "QwenImageTransformer2DModel", "SD3Transformer2DModel", "SanaTransformer2DModel")


def unet(**options: Any) -> nn.Module:
    kind: Any = UNet2DModel
    return kind(**{"sample_size": 16, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 4,
                   "down_block_types": DOWN, "up_block_types": UP, "attention_head_dim": None} | options)


def conditional(**options: Any) -> nn.Module:
    kind: Any = UNet2DConditionModel
    return kind(**{
        "sample_size": 16, "layers_per_block": 1, "block_out_channels": (16, 32), "norm_num_groups": 4,
        "cross_attention_dim": 16, "attention_head_dim": 2, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")} | options)


def dit() -> nn.Module:
    kind: Any = DiTTransformer2DModel
    return kind(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
                patch_size=2, num_embeds_ada_norm=4)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "`UNet2DModel`": unet,
    "… whose attention has several heads": lambda: unet(attention_head_dim=8),
    "… with classes and resampling in residual blocks": lambda: unet(num_class_embeds=4, **RESNETS),
    "`UNet2DConditionModel` (Stable Diffusion 1)": conditional,
    "… with linear projections (Stable Diffusion 2)": lambda: conditional(use_linear_projection=True),
    "… with the image's size (Stable Diffusion XL)": lambda: conditional(
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16),
    "`DiTTransformer2DModel`": dit}


def row(name: str, network: nn.Module) -> list[str]:
    """A network, the fraction of its parameters in layers that were narrowed and that is left of all, and what stayed."""
    sizes = {layer: sum(weight.numel() for weight in network.get_submodule(layer).parameters(recurse=False))
             for layer, _ in network.named_modules() if layer}
    report = cut(network, Random(), Allocation(RATIO))
    narrowed = sum(sizes[layer] for layer, shape in report.layers.items() if shape["before"] != shape["after"])
    reasons = Counter(entry["reason"] for entry in report.skipped)
    stayed = "; ".join(f"{count} x {reason}" if count > 1 else reason for reason, count in reasons.items())
    narrowed, left = (100 * params / report.params_dense for params in (narrowed, report.params))
    return [name, f"{narrowed:.0f} %", f"{left:.0f} %", stayed]


def refused() -> list[str]:
    """The names of diffusers' UNets, and of the transformers that people ask for, that no family knows."""
    names = [name for name, kind in vars(unets).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    missing = [name for name in ASKED_FOR if not hasattr(transformers, name)]
    assert not missing, missing
    return sorted({*names, *ASKED_FOR} - {*predictors(), "MotionAdapter"})      # which is no denoiser


def text() -> str:
    """The table and the sentence below it."""
    torch.manual_seed(0)
    table = tabulate([row(name, make().eval()) for name, make in NETWORKS.items()],
                     ["network", "in layers that are narrowed", "left of all", "what stays, and why"], "github",
                     disable_numparse=True)
    return f"{table}\n\nRefused by name: {', '.join(f'`{name}`' for name in refused())}."


def main() -> None:
    PAGE.write_text(replaced(PAGE.read_text(), "support", text()))
    print(text())


if __name__ == "__main__":
    main()
