"""Which runs make a table or figure, and what came of them."""
