"""Diffusion transformers (DiT) on latents, conditioned on classes."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from diffprune.models.families import first_stage
from diffprune.models.families.family import Family, Shape
from diffprune.models.network import config_of


@dataclass
class DiT(Family):
    """A transformer over patches of latents, with the autoencoder `vae`; the usual ones predict a variance too."""
    kinds = (DiTTransformer2DModel,)
    folder = "transformer"
    fixed = MappingProxyType({"vae": AutoencoderKL})
    vae: AutoencoderKL | None = None

    @property
    def has_unconditional(self) -> bool:
        return True

    def class_count(self, unet: nn.Module) -> int | None:
        return config_of(unet).get("num_embeds_ada_norm")

    def image_shape(self, unet: nn.Module) -> Shape:
        return self.shape(unet) if self.vae is None else first_stage.image_shape(self.vae, self.shape(unet))

    def encode(self, images: Tensor) -> Tensor:
        return images if self.vae is None else first_stage.encoded(self.vae, images)

    def decode(self, latents: Tensor) -> Tensor:
        return latents if self.vae is None else first_stage.decoded(self.vae, latents).float()

    @classmethod
    def example_inputs(cls, unet: nn.Module) -> dict[str, Any]:
        inputs = super().example_inputs(unet)
        inputs = {"hidden_states": inputs["sample"], "timestep": inputs["timestep"]}
        if config_of(unet).get("num_embeds_ada_norm"):
            inputs["class_labels"] = torch.zeros_like(inputs["timestep"])
        return inputs

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return unet(x_t, timestep=t, class_labels=condition).sample

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
        pipeline: Any = DiTPipeline     # typed for another kind of scheduler, and for a vae that is never absent
        return pipeline(transformer=unet, vae=self.vae, scheduler=scheduler)
