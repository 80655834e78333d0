"""Training a denoiser: the state, one step of it, and what is kept."""
