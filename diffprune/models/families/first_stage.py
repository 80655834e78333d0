"""The first stage of a latent diffusion model: an autoencoder with a codebook (VQ) or with a normal distribution (KL)."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from diffprune.models.network import config_of

Shape = tuple[int, int, int]


@torch.no_grad()
def encoded(stage: Any, images: Tensor) -> Tensor:
    """Latents [B, c, h, w] of `images` [B, C, H, W] on the scale of the denoiser's training: before the codebook, or the
    mean of the distribution."""
    output = stage.encode(images)
    latents = output.latent_dist.mode() if isinstance(stage, AutoencoderKL) else output.latents
    return (latents.float() - shift(stage)) * config_of(stage)["scaling_factor"]


@torch.no_grad()
def decoded(stage: Any, latents: Tensor) -> Tensor:
    """Images [B, C, H, W], about [-1, 1], of clean `latents` [B, c, h, w]: by way of the nearest codebook entry for VQ."""
    return stage.decode(latents / config_of(stage)["scaling_factor"] + shift(stage)).sample


def shift(stage: nn.Module) -> float:
    """What is taken from the latents before they are scaled."""
    return config_of(stage).get("shift_factor") or 0.0


def image_shape(stage: nn.Module, latent_shape: Shape) -> Shape:
    """(C, H, W) of the images of latents of `latent_shape`."""
    config = config_of(stage)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    return config["out_channels"], factor * latent_shape[1], factor * latent_shape[2]
