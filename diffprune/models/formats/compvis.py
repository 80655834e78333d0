"""Checkpoints of CompVis' class-conditional latent diffusion (ImageNet LDM-4) as diffusers modules."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.latent import ClassEmbedder, Latent
from diffprune.models.formats import compvis_config, ddim
from diffprune.models.formats.keys import Filled, State, as_state, check_choice, fill, some_of
from diffprune.models.network import config_of
from diffprune.runtime.errors import UserError

UNET, FIRST_STAGE, CLASSES, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."

# Tables of the noise schedule, loss weights and the first stage's training losses: derived, or of no use afterwards.
IGNORED = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    "lvlb_weights", "logvar", "scale_factor", EMA + "decay", EMA + "num_updates",
}
IGNORED_LOSS = FIRST_STAGE + "loss."

# diffusers' module → original module, where the number of levels does not matter.
TRUNK = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}

# The same within a residual block; the insides of a transformer are named alike.
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def convert_compvis(checkpoint: Any, config: Mapping[str, Any], weights: str | None = None) -> DiffusionModel:
    """The model in a CompVis checkpoint, with its VQ first stage and class embedding.

    `checkpoint` is a state dict, or a mapping with one under "state_dict"; where it holds an EMA, `weights` is
    "model" or "ema". `config` is the original YAML's content (or its sections `unet_config`, `first_stage_config`,
    `class_embedder` laid flat). UserError where something does not fit.
    """
    return fill_compvis(build(config, scale_of(choose_weights(as_state(checkpoint), weights))), checkpoint, weights)


def fill_compvis(model: DiffusionModel, checkpoint: Any, weights: str | None = None) -> DiffusionModel:
    """`model`, on the meta device until now, with the weights in `checkpoint`; UserError where something does not fit."""
    state, family = choose_weights(as_state(checkpoint), weights), model.family
    assert isinstance(family, Latent)
    assert family.vqvae is not None
    assert family.class_embedder is not None
    check_betas(state, model.scheduler)
    scale = config_of(family.vqvae)["scaling_factor"]
    if scale_of(state) not in (None, scale):
        raise UserError(f"its latents are scaled by {scale_of(state)}, the model's by {scale}")
    fill([filled_unet(model.unet), filled_first_stage(family.vqvae), filled_classes(family.class_embedder)],
         {key: tensor for key, tensor in state.items() if key not in IGNORED and not key.startswith(IGNORED_LOSS)})
    return model


def scale_of(state: State) -> float | None:
    """The measured scale of the latents, where the checkpoint holds one."""
    return float(state["scale_factor"]) if "scale_factor" in state else None


def build(config: Mapping[str, Any], scale_factor: float | None) -> DiffusionModel:
    """The model that `config` describes, its modules still without weights (on the meta device)."""
    try:
        architecture = compvis_config.read(config, scale_factor)
        with torch.device("meta"):
            unet = UNet2DConditionModel(**architecture.unet).eval()
            family = Latent(VQModel(**architecture.vqvae).eval(), ClassEmbedder(**architecture.class_embedder).eval())
    except (TypeError, ValueError) as error:
        raise UserError(f"the config describes no model that can be built ({error}), "
                        "give the one that belongs to the checkpoint") from error
    return DiffusionModel(unet, DDIMScheduler(**architecture.scheduler), family)


def choose_weights(state: State, weights: str | None) -> State:
    """`state` without its EMA's keys; with `weights` "ema" the UNet's tensors are the EMA's.

    The original names an EMA tensor as the model's without the dots.
    """
    ema = {key for key in state if key.startswith(EMA) and key not in IGNORED}
    check_choice(weights, bool(ema))
    shadows = {key: EMA + key.removeprefix("model.").replace(".", "") for key in state if key.startswith(UNET)}
    odd = [f"{key} is unknown" for key in ema - set(shadows.values())]
    if weights == "ema":
        odd += [f"{key} is missing" for key in set(shadows.values()) - ema]
    if odd:
        raise UserError(f"{len(odd)} keys of the EMA do not fit the model beside it: {some_of(sorted(odd))}")
    chosen = {key: tensor for key, tensor in state.items() if key not in ema}
    return chosen | {key: state[shadow] for key, shadow in shadows.items()} if weights == "ema" else chosen


def check_betas(state: State, scheduler: DDIMScheduler) -> None:
    """UserError where the checkpoint was trained on another noise schedule than the config says."""
    betas = state.get("betas")
    if betas is not None and not (betas.shape == scheduler.betas.shape
                                  and torch.allclose(betas.float(), scheduler.betas, rtol=1e-3)):
        raise UserError("its noise schedule (betas) is another than --config says, give the config it was trained with")


def filled_unet(unet: nn.Module) -> Filled:
    """The UNet2DConditionModel with its original keys."""
    table = unet_modules(unet)

    def original(key: str) -> str:
        module = next(module for module in table if key.startswith(module))
        leaf, dot, rest = key.removeprefix(module).partition(".")
        return UNET + table[module] + (RESIDUAL[leaf] if ".resnets." in module else leaf) + dot + rest

    return Filled(unet, {key: original(key) for key in unet.state_dict()})


def unet_modules(unet: nn.Module) -> dict[str, str]:
    """diffusers' module → original module, as prefixes of keys; rows are counted as the original builds them."""
    config = config_of(unet)
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    table, row = dict(TRUNK), 1
    for level in range(levels):
        for layer in range(layers):
            table[f"down_blocks.{level}.resnets.{layer}."] = f"input_blocks.{row}.0."
            table[f"down_blocks.{level}.attentions.{layer}."] = f"input_blocks.{row}.1."
            row += 1
        table[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{row}.0.op."
        row += 1
    row = 0
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(layers + 1):
            table[f"up_blocks.{level}.resnets.{layer}."] = f"output_blocks.{row}.0."
            table[f"up_blocks.{level}.attentions.{layer}."] = f"output_blocks.{row}.1."
            row += 1
        place = 2 if kind == compvis_config.UP_ATTENTION else 1      # after the residual block and its transformer
        table[f"up_blocks.{level}.upsamplers.0."] = f"output_blocks.{row - 1}.{place}."
    return table


def filled_first_stage(vqvae: VQModel) -> Filled:
    """The VQ first stage with its original keys, which follow the DDIM code base."""
    levels = len(config_of(vqvae)["block_out_channels"])
    return Filled(vqvae, {key: FIRST_STAGE + ddim.original_name(key, levels) for key in vqvae.state_dict()})


def filled_classes(embedder: ClassEmbedder) -> Filled:
    """The class embedding with its original key."""
    return Filled(embedder, {key: CLASSES + key for key in embedder.state_dict()})
