"""What differs between kinds of diffusion models, one file for each kind; `family.py` is the protocol."""

from diffprune.models.families.ddpm import Ddpm
from diffprune.models.families.dit import DiT
from diffprune.models.families.family import Family, family_for, predictors
from diffprune.models.families.latent import Latent

SHIPPED = (Ddpm, Latent, DiT)       # found by their networks' classes alone; a model folder names the module of any other

__all__ = ["SHIPPED", "Ddpm", "DiT", "Family", "Latent", "family_for", "predictors"]
