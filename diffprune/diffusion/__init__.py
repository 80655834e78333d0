"""The mathematics of a diffusion model, on tensors alone."""
