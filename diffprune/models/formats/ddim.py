"""Checkpoints of the DDIM code base (CIFAR-10, CelebA, LSUN) as diffusers' UNet2DModel."""

import re
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.formats.keys import Filled, State, as_state, check_choice, fill
from diffprune.models.network import config_of
from diffprune.runtime.errors import UserError

GROUPS = 32

# diffusers' name → original name, applied in this order; levels of the upward path are turned round separately.
RULES = (
    (r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)", r"\1.\2.block.\3"),
    (r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)", r"\1.\2.attn.\3"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"\1.\2.\3sample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"\.time_emb_proj\.", ".temb_proj."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"time_embedding\.linear_1\.", "temb.dense.0."),
    (r"time_embedding\.linear_2\.", "temb.dense.1."),
    (r"conv_norm_out\.", "norm_out."),
)


def convert_ddim(checkpoint: Any, resolution: int | None, weights: str | None = None) -> DiffusionModel:
    """The model in a checkpoint of the DDIM code base.

    `checkpoint` is a state dict or the list [model, optimizer, epoch, step, ema] with `weights` "model" or "ema";
    `resolution` is the side of its images in pixels, which no shape shows. UserError where something does not fit.
    """
    config = infer_config(as_state(choose_weights(checkpoint, weights)), resolution)
    with torch.device("meta"):
        unet = UNet2DModel(**config)
    return fill_ddim(DiffusionModel(unet=unet.eval(), scheduler=ddim_scheduler()), checkpoint, weights)


def fill_ddim(model: DiffusionModel, checkpoint: Any, weights: str | None = None) -> DiffusionModel:
    """`model`, on the meta device until now, with the weights in `checkpoint`; UserError where something does not fit."""
    levels = len(config_of(model.unet)["block_out_channels"])
    fill([Filled(model.unet, {key: original_name(key, levels) for key in model.unet.state_dict()})],
         as_state(choose_weights(checkpoint, weights)))
    return model


def ddim_scheduler() -> DDIMScheduler:
    """DDPM's linear schedule, diffusers' default; the last step goes to alpha_bar 1 and x0 is never clipped."""
    return DDIMScheduler(clip_sample=False)


def choose_weights(checkpoint: Any, weights: str | None) -> Any:
    """The state dict that `weights` names; UserError where it is None and the checkpoint holds an EMA beside the model."""
    entries = checkpoint if isinstance(checkpoint, list | tuple) else [checkpoint]
    model = entries[0] if entries else None
    ema = entries[4] if len(entries) > 4 else None
    check_choice(weights, ema is not None)
    return ema if weights == "ema" else model


def original_name(key: str, levels: int) -> str:
    """The DDIM code base's name of diffusers' `key`; both count downward blocks from the highest resolution,
    the original counts upward blocks from there too, diffusers from the lowest."""
    key = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", key)
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key


def infer_config(state: State, resolution: int | None) -> dict[str, Any]:
    """Arguments of UNet2DModel inferred from the shapes in `state`; UserError where they do not suffice."""
    widths = level_widths(state)
    check_resolution(resolution, len(widths))
    attention = [any(key.startswith(f"down.{level}.attn.") for key in state) for level in range(len(widths))]
    return {
        "sample_size": resolution,
        "in_channels": conv_shape(state, "conv_in.weight")[1],
        "out_channels": conv_shape(state, "conv_out.weight")[0],
        "block_out_channels": widths,
        "layers_per_block": 1 + largest_index(state, r"down\.0\.block\.(\d+)\."),
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attention],
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)],
        "attention_head_dim": None,
        "norm_num_groups": GROUPS,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def level_widths(state: State) -> list[int]:
    """Channels of every level, highest resolution first."""
    levels = 1 + largest_index(state, r"down\.(\d+)\.")
    widths = [conv_shape(state, f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    for width in widths:
        if width % GROUPS:
            raise UserError(f"a level is {width} channels wide, no multiple of {GROUPS}: only dense models convert")
    return widths


def check_resolution(resolution: int | None, levels: int) -> None:
    step = 2 ** (levels - 1)
    if resolution is None:
        raise UserError("no shape tells the side of the images, give it in pixels with --resolution")
    if resolution <= 0 or resolution % step:
        raise UserError(f"--resolution {resolution} does not fit its {levels} levels, give a multiple of {step}")


def largest_index(state: State, pattern: str) -> int:
    """The largest number that `pattern` captures among the keys."""
    numbers = [int(match[1]) for match in (re.match(pattern, key) for key in state) if match]
    if not numbers:
        raise UserError(f"this is no UNet of the DDIM code base, no key matches {pattern}")
    return max(numbers)


def conv_shape(state: State, key: str) -> torch.Size:
    """Shape [out, in, kh, kw] of the convolution `key`, from which the architecture is read."""
    if key not in state:
        raise UserError(f"{key} is missing, from which the architecture is read")
    if state[key].ndim != 4:
        raise UserError(f"{key} is {list(state[key].shape)} instead of a convolution's [out, in, kh, kw]")
    return state[key].shape
