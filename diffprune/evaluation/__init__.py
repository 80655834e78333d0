"""How good images are, how alike, and how fast a model draws them."""
