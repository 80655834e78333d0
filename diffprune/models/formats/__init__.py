"""Original checkpoint formats: the names they give their weights, and the diffusers modules these belong in."""
