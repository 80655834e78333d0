"""Structural pruning of diffusion models: prune, fine-tune, sample, score, compare."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffprune.models.model_folder import load_pipeline
    from diffprune.pruning.api import prune

__version__ = "0.1.0"
__all__ = ["__version__", "load_pipeline", "prune"]


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used, since configuration and reports need no torch."""
    if name == "load_pipeline":
        from diffprune.models.model_folder import load_pipeline
        return load_pipeline
    if name == "prune":
        from diffprune.pruning.api import prune
        return prune
    raise AttributeError(f"module 'diffprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
