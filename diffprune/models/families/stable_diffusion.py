"""Stable Diffusion 1 and 2: a UNet on latents that reads a prompt through cross-attention."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor, nn

from diffprune.models.families import first_stage
from diffprune.models.families.family import Shape, TextFamily
from diffprune.models.network import config_of
from diffprune.runtime.errors import UserError


def text_encoder(folder: Path) -> nn.Module:
    """The CLIP text encoder in a `folder`; UserError where it cannot be read."""
    from transformers import CLIPTextModel
    return read(CLIPTextModel, folder).eval().requires_grad_(False)


def tokenizer(folder: Path) -> Any:
    """The tokenizer in a `folder`; UserError where it cannot be read."""
    from transformers import CLIPTokenizer
    return read(CLIPTokenizer, folder)


def read(kind: Any, folder: Path) -> Any:
    """What `kind` of transformers reads from a `folder` of this disk, of a torch file the tensors alone; UserError where it
    cannot be read."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, LookupError, SafetensorError) as error:
        raise UserError(f"no {kind.__name__} can be read from {folder} ({error}): copy it again") from error


@dataclass
class StableDiffusion(TextFamily):
    """The UNet's latents are those of `vae`; its context are the hidden states of `text_encoder` for a prompt's tokens."""
    kinds = (UNet2DConditionModel,)
    fixed = MappingProxyType({"vae": AutoencoderKL, "text_encoder": text_encoder, "tokenizer": tokenizer})
    ignored = ("safety_checker", "feature_extractor", "image_encoder")
    vae: Any = None
    text_encoder: Any = None
    tokenizer: Any = None

    def check(self, unet: nn.Module, name: str) -> None:
        super().check(unet, name)
        if self.text_encoder is not None and self.context_width() != config_of(unet)["cross_attention_dim"]:
            raise UserError(f"the text_encoder of model={name} does not fit its UNet: copy the whole folder again")

    def context_width(self) -> int:
        """How many numbers the network reads of each token."""
        return self.text_encoder.config.hidden_size

    def image_shape(self, unet: nn.Module) -> Shape:
        if missing := [part for part in self.fixed if getattr(self, part) is None]:
            raise UserError(f"the model has no {missing[0]}: give model.checkpoint=<a complete folder or hub repository>")
        return first_stage.image_shape(self.vae, self.shape(unet))

    def encode(self, images: Tensor) -> Tensor:
        return first_stage.encoded(self.vae, images)

    def decode(self, latents: Tensor) -> Tensor:
        return first_stage.decoded(self.vae, latents).float()

    @torch.no_grad()
    def embedded(self, prompts: list[str]) -> Tensor:
        """Hidden states [B, 77, D] of `prompts`, which are cut after 77 tokens."""
        tokens = self.tokenizer(prompts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
                                return_tensors="pt").input_ids
        return self.text_encoder(tokens.to(self.text_encoder.device))[0]

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return unet(x_t, t, encoder_hidden_states=condition).sample

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
        pipeline: Any = StableDiffusionPipeline     # typed for a safety checker, which may be absent
        return pipeline(self.vae, self.text_encoder, self.tokenizer, unet, scheduler, None, None,
                        requires_safety_checker=False)
