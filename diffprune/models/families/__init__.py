"""What differs between kinds of diffusion models, one file for each kind; `family.py` is the protocol."""

from diffprune.models.families.ddpm import Ddpm
from diffprune.models.families.dit import DiT
from diffprune.models.families.family import Family, family_for, predictors
from diffprune.models.families.latent import Latent
from diffprune.models.families.sdxl import StableDiffusionXL
from diffprune.models.families.stable_diffusion import StableDiffusion

# Found by their networks' classes; a model folder names the module of any other.
SHIPPED = (Ddpm, Latent, DiT, StableDiffusion, StableDiffusionXL)

__all__ = ["SHIPPED", "Ddpm", "DiT", "Family", "Latent", "StableDiffusion", "StableDiffusionXL", "family_for", "predictors"]
