"""DDPMs in pixel space (the paper's CIFAR-10, CelebA and LSUN models)."""

from dataclasses import dataclass

from diffusers.models.unets.unet_2d import UNet2DModel

from diffprune.models.families.family import Family


@dataclass
class Ddpm(Family):
    """An unconditional UNet that denoises images themselves."""
    kinds = (UNet2DModel,)
