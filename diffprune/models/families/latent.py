"""Latent diffusion with a VQ or KL first stage, class-conditional or not, and the pipeline that samples it with guidance."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from diffprune.models.families import first_stage
from diffprune.models.families.family import TIME_IDS, Family, Shape
from diffprune.models.network import config_of
from diffprune.models.scheduler_steps import drawn
from diffprune.runtime.errors import UserError

OUTPUT_TYPES = ("pil", "np", "pt")


class ClassEmbedder(ModelMixin, ConfigMixin):
    """One learned vector for each class; the last of the `n_classes` stands for no class at all."""

    @register_to_config
    def __init__(self, n_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    @property
    def unconditional(self) -> int:
        """The class that stands for none: 1000 of the 1001 on ImageNet."""
        return config_of(self)["n_classes"] - 1

    def forward(self, labels: Tensor) -> Tensor:
        """Integer `labels` [B] → context [B, 1, embed_dim]."""
        return self.embedding(labels)[:, None, :]


@dataclass
class Latent(Family):
    """A UNet on the latents of the first stage `vqvae` (pixels are the latents without one), for classes where it has a
    `class_embedder`."""
    kinds = (UNet2DModel, UNet2DConditionModel)
    fixed = MappingProxyType({"vqvae": VQModel, "class_embedder": ClassEmbedder})
    vqvae: VQModel | None = None
    class_embedder: ClassEmbedder | None = None

    def class_count(self, unet: nn.Module) -> int | None:
        return super().class_count(unet) if self.class_embedder is None else self.class_embedder.unconditional

    @property
    def has_unconditional(self) -> bool:
        return self.class_embedder is not None

    def image_shape(self, unet: nn.Module) -> Shape:
        return self.shape(unet) if self.vqvae is None else first_stage.image_shape(self.vqvae, self.shape(unet))

    def encode(self, images: Tensor) -> Tensor:
        return images if self.vqvae is None else first_stage.encoded(self.vqvae, images)

    def decode(self, latents: Tensor) -> Tensor:
        return latents if self.vqvae is None else first_stage.decoded(self.vqvae, latents).float()

    @torch.no_grad()
    def condition(self, labels: Tensor) -> Tensor | None:
        """The embedding [B, 1, D] of the classes, or the classes where the UNet embeds them itself."""
        return labels if self.class_embedder is None else self.class_embedder(labels)

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        if condition is None or "cross_attention_dim" not in config_of(unet):
            return super().predict(unet, x_t, t, condition)
        return unet(x_t, t, encoder_hidden_states=condition).sample

    @classmethod
    def example_inputs(cls, unet: nn.Module) -> dict[str, Any]:
        inputs, width = super().example_inputs(unet), config_of(unet).get("cross_attention_dim")
        if width is None:
            return inputs
        context = torch.zeros(1, 1, width, device=inputs["sample"].device)
        inputs = {"sample": inputs["sample"], "timestep": inputs["timestep"], "encoder_hidden_states": context} | inputs
        return inputs | added_conditions(unet, inputs)

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        if self.vqvae is None:
            return super().pipeline(unet, scheduler)
        if self.class_embedder is None:
            import diffusers
            unconditional: Any = diffusers.LDMPipeline      # its module is another one in each version of diffusers
            return unconditional(vqvae=self.vqvae, unet=unet, scheduler=scheduler)
        return ClassConditionalLDMPipeline(unet, self.vqvae, scheduler, self.class_embedder)

    def check(self, unet: nn.Module, name: str) -> None:
        super().check(unet, name)
        if "cross_attention_dim" in config_of(unet) and self.class_embedder is None:
            raise UserError(f"model={name} is conditional and has no class_embedder/: only unconditional and "
                            "class-conditional models can be scored, sampled and trained here")
        for own, width, width_of_unet in (("vqvae", "latent_channels", "in_channels"),
                                          ("class_embedder", "embed_dim", "cross_attention_dim")):
            network = self.networks.get(own)
            if network is not None and config_of(network)[width] != config_of(unet).get(width_of_unet):
                raise UserError(f"the {own} of model={name} does not fit its UNet: copy the whole folder again")


def added_conditions(unet: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """What an SDXL UNet is given besides `inputs`, after the arguments before it in its signature; of others nothing."""
    config = config_of(unet)
    if config.get("addition_embed_type") != "text_time":
        return {}
    width = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
    added = {"text_embeds": torch.zeros(1, width, device=inputs["sample"].device),
             "time_ids": torch.zeros(1, TIME_IDS, device=inputs["sample"].device)}
    before = dict.fromkeys(("class_labels", "timestep_cond", "attention_mask", "cross_attention_kwargs"))
    return before | {name: inputs[name] for name in before if name in inputs} | {"added_cond_kwargs": added}


class ClassConditionalLDMPipeline(DiffusionPipeline):
    """Images of given classes from a latent diffusion model with a VQ first stage (the paper's ImageNet model)."""

    model_cpu_offload_seq = "class_embedder->unet->vqvae"

    def __init__(self, unet: UNet2DConditionModel, vqvae: VQModel, scheduler: DDIMScheduler,
                 class_embedder: ClassEmbedder) -> None:
        super().__init__()
        self.register_modules(unet=unet, vqvae=vqvae, scheduler=scheduler, class_embedder=class_embedder)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor,
        num_inference_steps: int = 250,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float = 0.0,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """One image for each of `class_labels` [B]; guidance 1 follows the class alone, 0 ignores it.

        `latents` [B, C, h, w] is the starting noise, drawn from `generator` when absent. Images come as PIL images,
        as an array [B, H, W, 3] ("np") or as a tensor [B, 3, H, W] ("pt") in [0, 1].
        ValueError for a class that does not exist, latents of another shape, or an unknown `output_type`.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r} is unknown, choose from {', '.join(OUTPUT_TYPES)}")
        labels = self.labels(class_labels)
        x_T = self.starting_noise(len(labels), generator, latents)
        context_u = self.class_embedder(torch.full_like(labels, self.class_embedder.unconditional))
        context_c = self.class_embedder(labels)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.guided_noise(x_t, t, context_u, context_c, guidance_scale)
        x_0 = drawn(self.scheduler, predict, x_T, num_inference_steps, eta, generator, self.progress_bar)
        images: Any = VaeImageProcessor().postprocess(self.decode(x_0), output_type=output_type)
        return ImagePipelineOutput(images=images)

    def guided_noise(self, x_t: Tensor, t: Tensor, context_u: Tensor, context_c: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance, eps_u + scale (eps_c - eps_u), in one pass over twice the batch."""
        if scale == 1:
            return self.unet(x_t, t, encoder_hidden_states=context_c).sample
        eps_u, eps_c = self.unet(torch.cat([x_t, x_t]), torch.cat([t, t]),
                                 encoder_hidden_states=torch.cat([context_u, context_c])).sample.chunk(2)
        return eps_u + scale * (eps_c - eps_u)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] → pixels [B, 3, H, W], about [-1, 1]: nearest codebook entry, then the decoder."""
        return first_stage.decoded(self.vqvae, latents)

    def labels(self, class_labels: int | Sequence[int] | Tensor) -> Tensor:
        """`class_labels` as int64 [B] on the pipeline's device; ValueError for one that the embedding does not have."""
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device).reshape(-1)
        unknown = labels[(labels < 0) | (labels > self.class_embedder.unconditional)]
        if len(unknown):
            raise ValueError(f"class {unknown[0].item()} does not exist, choose from 0 to "
                             f"{self.class_embedder.unconditional} (the last one stands for no class)")
        return labels

    def starting_noise(self, batch: int, generator: torch.Generator | list[torch.Generator] | None,
                       latents: Tensor | None) -> Tensor:
        """Noise [batch, C, h, w]: `latents` where given, else drawn."""
        shape = (batch, *Latent().shape(self.unet))
        if latents is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents are {list(latents.shape)}, the classes and the model ask for {list(shape)}")
        return latents.to(self._execution_device, self.unet.dtype)
