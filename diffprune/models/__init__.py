"""Diffusion models: what they are, where they come from, how they are stored and what they cost."""
