"""Stable Diffusion XL: a UNet that reads a prompt by two text encoders, and the size of the image."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from diffprune.models.families.family import CONDITIONS, TIME_IDS
from diffprune.models.families.stable_diffusion import StableDiffusion, read, text_encoder, tokenizer
from diffprune.models.network import config_of


def projected_text_encoder(folder: Path) -> nn.Module:
    """The CLIP text encoder with a projection of the whole prompt in a `folder`; UserError where it cannot be read."""
    from transformers import CLIPTextModelWithProjection
    return read(CLIPTextModelWithProjection, folder).eval().requires_grad_(False)


@dataclass
class StableDiffusionXL(StableDiffusion):
    """A prompt's context are the last but one hidden states of both encoders, side by side, and the projection of the whole
    prompt by the second; no prompt is all zeros. The image's size is that of the images, uncropped."""
    kinds = (UNet2DConditionModel,)
    fixed = MappingProxyType({"vae": AutoencoderKL, "text_encoder": text_encoder, "text_encoder_2": projected_text_encoder,
                              "tokenizer": tokenizer, "tokenizer_2": tokenizer})
    conditions = tuple(option for option in CONDITIONS if option != "addition_embed_type")
    text_encoder_2: Any = None
    tokenizer_2: Any = None

    def context_width(self) -> int:
        return self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size

    @torch.no_grad()
    def embedded(self, prompts: list[str]) -> Tensor:
        """[B, 78, D]: the hidden states of 77 tokens, and the projection, filled up with zeros."""
        states, projection = [], None
        for tokens, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            read_tokens = tokens(prompts, padding="max_length", max_length=tokens.model_max_length, truncation=True,
                                 return_tensors="pt").input_ids
            output = encoder(read_tokens.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            projection = output[0]
        context = torch.cat(states, dim=-1)
        assert projection is not None
        whole = pad(projection, (0, context.shape[-1] - projection.shape[-1]))[:, None]
        said = torch.tensor([prompt != "" for prompt in prompts], device=context.device)
        return torch.cat([context, whole], dim=1) * said[:, None, None]

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is not None
        _, height, width = self.image_shape(unet)
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device, dtype=condition.dtype)
        config = config_of(unet)
        projected = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
        added = {"text_embeds": condition[:, -1, :projected], "time_ids": sizes.expand(len(x_t), -1)}
        return unet(x_t, t, encoder_hidden_states=condition[:, :-1], added_cond_kwargs=added).sample

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
        return StableDiffusionXLPipeline(self.vae, self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer_2,
                                         unet, scheduler, add_watermarker=False)
