"""The config of a CompVis latent diffusion model, in diffusers' terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffprune.runtime.errors import UserError

DOWN_ATTENTION, UP_ATTENTION = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"

# Options that this project knows with one value alone, which is also what leaving them out means.
SUPPORTED = {
    "the model": {"parameterization": "eps", "beta_schedule": "linear", "conditioning_key": "crossattn"},
    "unet_config": {"use_spatial_transformer": True, "use_scale_shift_norm": False, "resblock_updown": False,
                    "conv_resample": True, "dims": 2, "num_classes": None},
    "first_stage_config": {"double_z": False, "attn_resolutions": []},
    "class_embedder": {},
}


@dataclass(frozen=True)
class Architecture:
    """Constructor arguments of the modules."""
    unet: dict[str, Any]
    vqvae: dict[str, Any]
    class_embedder: dict[str, Any]
    scheduler: dict[str, Any]


class Section(dict):
    """One section of the config; UserError names what is missing or not supported."""

    def __init__(self, name: str, entries: Any) -> None:
        if not isinstance(entries, Mapping):
            raise UserError(f"the config has no section {name}, give the one that belongs to the checkpoint")
        super().__init__(entries)
        self.name = name
        for option, value in SUPPORTED[name].items():
            if self.get(option, value) != value:
                raise UserError(f"{name}.{option} is {self[option]!r} in the config, only {value!r} can be converted")

    def __missing__(self, key: str) -> Any:
        raise UserError(f"the config has no {self.name}.{key}, give the one that belongs to the checkpoint")


def read(config: Mapping[str, Any], scale_factor: float | None = None) -> Architecture:
    """Constructor arguments for `config`, in the original YAML's layout or laid flat.

    Latents are multiplied by `scale_factor` before diffusion; a measured one, of the checkpoint, takes
    precedence over the config's. UserError where the config lacks something, contradicts itself or is not supported.
    """
    model, unet, first_stage, classes = sections(config)
    if unet["context_dim"] != classes["embed_dim"]:
        raise UserError(f"unet_config.context_dim is {unet['context_dim']} and class_embedder.embed_dim "
                        f"{classes['embed_dim']} in the config, they must be equal")
    return Architecture(
        unet=unet_arguments(unet),
        vqvae=vqvae_arguments(first_stage, scale_factor or model.get("scale_factor", 1.0)),
        class_embedder={name: classes[name] for name in ("n_classes", "embed_dim")},
        scheduler=scheduler_arguments(model),
    )


def sections(config: Mapping[str, Any]) -> tuple[Section, Section, Section, Section]:
    """Model, UNet, first stage and class embedder; the original nests each one's arguments under `params`."""
    if "model" not in config:
        entries = [config, *(config.get(name) for name in list(SUPPORTED)[1:])]
    else:
        root = parameters(config, "model")
        vqvae = parameters(root, "first_stage_config")
        entries = [root, parameters(root, "unet_config"), {**vqvae.get("ddconfig", {}), **vqvae},
                   parameters(root, "cond_stage_config")]
    model, unet, first_stage, classes = (Section(name, section) for name, section in zip(SUPPORTED, entries, strict=True))
    return model, unet, first_stage, classes


def parameters(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """`config[name]["params"]`."""
    section = config.get(name)
    if not isinstance(section, Mapping) or not isinstance(section.get("params"), Mapping):
        raise UserError(f"the config has no section {name}.params, give the one that belongs to the checkpoint")
    return section["params"]


def unet_arguments(unet: Section) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel; `attention_resolutions` are factors of downsampling: level l has 2^l."""
    widths = [unet["model_channels"] * factor for factor in unet["channel_mult"]]
    attention = [2 ** level in unet["attention_resolutions"] for level in range(len(widths))]
    return {
        "sample_size": unet["image_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": unet["num_res_blocks"],
        "down_block_types": [DOWN_ATTENTION if here else "DownBlock2D" for here in attention],
        "up_block_types": [UP_ATTENTION if here else "UpBlock2D" for here in reversed(attention)],
        "attention_head_dim": heads(unet, widths),       # diffusers' name for the number of heads in this class
        "transformer_layers_per_block": unet.get("transformer_depth", 1),
        "cross_attention_dim": unet["context_dim"],
    }


def heads(unet: Section, widths: list[int]) -> list[int]:
    """Attention heads at each level, from `num_head_channels` or else from `num_heads`."""
    channels = unet.get("num_head_channels", -1)
    if channels == -1:
        return [unet["num_heads"]] * len(widths)
    return [width // channels for width in widths]


def vqvae_arguments(first_stage: Section, scale_factor: float) -> dict[str, Any]:
    """Arguments of VQModel."""
    levels = len(first_stage["ch_mult"])
    return {
        "in_channels": first_stage["in_channels"],
        "out_channels": first_stage["out_ch"],
        "block_out_channels": [first_stage["ch"] * factor for factor in first_stage["ch_mult"]],
        "layers_per_block": first_stage["num_res_blocks"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": first_stage["z_channels"],
        "sample_size": first_stage["resolution"],
        "num_vq_embeddings": first_stage["n_embed"],
        "vq_embed_dim": first_stage["embed_dim"],
        "scaling_factor": scale_factor,
    }


def scheduler_arguments(model: Section) -> dict[str, Any]:
    """Arguments of DDIMScheduler; what CompVis calls linear is linear in the square root of beta."""
    return {
        "num_train_timesteps": model.get("timesteps", 1000),
        "beta_start": model.get("linear_start", 0.0015),
        "beta_end": model.get("linear_end", 0.0195),
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
