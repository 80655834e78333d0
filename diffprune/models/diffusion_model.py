"""A noise predictor with what it needs around it: schedule, first stage, class embedding."""

import hashlib
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    VQModel,
)
from torch import Tensor, nn

from diffprune.diffusion.process import Denoiser
from diffprune.runtime.errors import UserError


@dataclass
class DiffusionModel:
    """A noise predictor with the noise schedule it was trained on, and what a latent model needs besides.

    Pixels are the latents of a model without first stage, and an unconditional model has no context.
    """
    unet: nn.Module
    scheduler: DDIMScheduler
    vqvae: VQModel | None = None
    class_embedder: nn.Module | None = None
    vae: AutoencoderKL | None = None

    @property
    def parts(self) -> list[nn.Module]:
        """The UNet, which alone is pruned and trained, and the fixed networks around it."""
        return [part for part in (self.unet, self.vqvae, self.class_embedder, self.vae) if part is not None]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def to(self, device: torch.device) -> "DiffusionModel":
        """Moves every network to `device`, and gives the same model back."""
        for part in self.parts:
            part.to(device)
        return self

    @property
    def alpha_bar(self) -> Tensor:
        """[T] float32, on the device of the UNet."""
        return self.scheduler.alphas_cumprod.to(self.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the UNet denoises."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it draws."""
        if self.vqvae is None:
            return self.shape
        side = self.unet.config.sample_size * 2 ** (len(self.vqvae.config.block_out_channels) - 1)
        return (self.vqvae.config.out_channels, side, side)

    @property
    def key(self) -> str:
        """Hex digest of every weight: what caches of anything computed from this model are filed under."""
        keys = [state_key(part) for part in self.parts]
        return keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()

    def denoise(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Predicted noise [B, C, H, W] for `x_t` at timesteps `t` [B], given the `context` [B, 1, D] of its classes."""
        if context is None:
            return self.unet(x_t, t).sample
        return self.unet(x_t, t, encoder_hidden_states=context).sample

    def context(self, labels: Tensor | None) -> Tensor | None:
        """The embedding [B, 1, D] of classes [B], None for an unconditional model; UserError for an unknown class."""
        if self.class_embedder is None:
            return None
        if labels is None:
            raise UserError("the model draws images of given classes and the data set names none: "
                            "give a folder with one sub-folder of images per class")
        if int(labels.max()) >= self.class_embedder.unconditional:
            raise UserError(f"the data set has a class {int(labels.max())}, the model knows 0 to "
                            f"{self.class_embedder.unconditional - 1}: give the data set it was trained on")
        with torch.no_grad():
            return self.class_embedder(labels.to(self.device))

    def labels_for(self, indices: range) -> Tensor | None:
        """The class of each image that is drawn, index modulo the number of classes; None for an unconditional model."""
        return None if self.class_embedder is None else torch.tensor(indices) % self.class_embedder.unconditional

    def denoiser(self, labels: Tensor | None, guidance: float | None) -> Denoiser:
        """The predictor of noise for images of `labels` [B], by classifier-free guidance (Ho and Salimans 2022, eq. 6).

        eps_u + guidance (eps_c - eps_u), both in one evaluation of twice the batch; None or 1 is eps_c alone.
        """
        context_c = self.context(labels)
        if context_c is None or guidance in (None, 1):
            return lambda x_t, t: self.denoise(x_t, t, context_c)
        with torch.no_grad():
            nobody = torch.full_like(labels, self.class_embedder.unconditional).to(self.device)
            context = torch.cat([self.class_embedder(nobody), context_c])

        def guided(x_t: Tensor, t: Tensor) -> Tensor:
            eps_u, eps_c = self.denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), context).float().chunk(2)
            return eps_u + guidance * (eps_c - eps_u)
        return guided

    def to_latent(self, images: Tensor) -> Tensor:
        """What the UNet denoises of `images` [B, C, H, W] in [-1, 1], before the codebook, on the scale of its training."""
        if self.vqvae is None:
            return images
        with torch.no_grad():
            return self.vqvae.encode(images).latents.float() * self.vqvae.config.scaling_factor

    def to_image(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], about [-1, 1], of clean `latents`: nearest codebook entry, then the decoder."""
        if self.vqvae is None:
            return latents
        with torch.no_grad():
            return self.vqvae.decode(latents / self.vqvae.config.scaling_factor).sample.float()


def pipeline_of(model: DiffusionModel) -> DiffusionPipeline:
    """The diffusers pipeline that draws with `model`; that of a transformer decodes its latents with `vae` alone."""
    if isinstance(model.unet, DiTTransformer2DModel):
        return DiTPipeline(transformer=model.unet, vae=model.vae, scheduler=model.scheduler)
    if model.vqvae is None:
        return DDIMPipeline(unet=model.unet, scheduler=model.scheduler)
    if model.class_embedder is None:
        return LDMPipeline(vqvae=model.vqvae, unet=model.unet, scheduler=model.scheduler)
    from diffprune.models.families.latent import ClassConditionalLDMPipeline
    return ClassConditionalLDMPipeline(unet=model.unet, vqvae=model.vqvae, scheduler=model.scheduler,
                                       class_embedder=model.class_embedder)


def state_key(module: nn.Module) -> str:
    """Hex digest of every weight's name, shape and value."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
