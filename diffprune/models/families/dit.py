"""Diffusion transformers: pruned, saved and loaded, but not trained here, since the usual ones predict a variance too."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from diffprune.models.families.family import Family
from diffprune.models.network import config_of
from diffprune.runtime.errors import UserError


@dataclass
class DiT(Family):
    """A transformer over patches of latents, with the autoencoder `vae` that decodes them."""
    kinds = (DiTTransformer2DModel,)
    folder = "transformer"
    fixed = MappingProxyType({"vae": AutoencoderKL})
    vae: AutoencoderKL | None = None

    @classmethod
    def example_inputs(cls, unet: nn.Module) -> dict[str, Tensor]:
        inputs = super().example_inputs(unet)
        inputs = {"hidden_states": inputs["sample"], "timestep": inputs["timestep"]}
        if config_of(unet).get("num_embeds_ada_norm"):
            inputs["class_labels"] = torch.zeros_like(inputs["timestep"])
        return inputs

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        raise UserError("a diffusion transformer can be pruned, saved and loaded here, but not scored, sampled or trained")

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
        pipeline: Any = DiTPipeline     # typed for another kind of scheduler, and for a vae that is never absent
        return pipeline(transformer=unet, vae=self.vae, scheduler=scheduler)
