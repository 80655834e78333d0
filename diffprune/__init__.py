"""Structural pruning of diffusion models: prune, fine-tune, sample, score, compare."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffprune.api.evaluation import evaluate
    from diffprune.api.finetuning import finetune
    from diffprune.api.folders import load_pipeline, save_pipeline
    from diffprune.api.hub import push_to_hub
    from diffprune.api.pruning import prune

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "finetune", "load_pipeline", "prune", "push_to_hub", "save_pipeline"]


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used, since configuration and reports need no torch."""
    if name in ("load_pipeline", "save_pipeline"):
        from diffprune.api import folders
        return getattr(folders, name)
    if name == "prune":
        from diffprune.api.pruning import prune
        return prune
    if name == "finetune":
        from diffprune.api.finetuning import finetune
        return finetune
    if name == "push_to_hub":
        from diffprune.api.hub import push_to_hub
        return push_to_hub
    if name == "evaluate":
        from diffprune.api.evaluation import evaluate
        return evaluate
    raise AttributeError(f"module 'diffprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
