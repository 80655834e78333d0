"""What differs between kinds of diffusion models, one file for each kind; `family.py` is the protocol."""

from diffprune.models.families.ddpm import Ddpm
from diffprune.models.families.dit import DiT
from diffprune.models.families.family import Family, family_for, predictors
from diffprune.models.families.latent import Latent
from diffprune.models.families.stable_diffusion import StableDiffusion

SHIPPED = (Ddpm, Latent, DiT, StableDiffusion)       # found by their networks' classes; a folder names any other

__all__ = ["SHIPPED", "Ddpm", "DiT", "Family", "Latent", "StableDiffusion", "family_for", "predictors"]
