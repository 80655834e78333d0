"""Drawing images with a model: image i always from the noise of index i."""
