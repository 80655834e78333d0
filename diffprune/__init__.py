"""Structural pruning of diffusion models: prune, heal, sample, score, compare."""

from importlib import import_module
from typing import Any

_PUBLIC = {"load_pipeline": "diffprune.models.model_folder", "prune": "diffprune.pruning.api"}


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used: configuration and reports need no torch."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'diffprune' has no attribute {name!r}")
