"""The five stages of a run: each reads files that the one before it wrote, and none imports another."""
