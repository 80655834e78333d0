"""Where a model's checkpoint comes from: its address, who publishes it, what to do by hand."""

import re

from omegaconf import DictConfig

PAGE = "page:"      # before the address of a page where a person has to click to get a checkpoint


def is_hub_name(checkpoint: str) -> bool:
    return re.fullmatch(r"\w[\w-]*/[\w.-]+", checkpoint) is not None


def is_url(checkpoint: str) -> bool:
    return checkpoint.startswith(("https://", "http://"))


def origin(model: DictConfig) -> str:
    """Who publishes the checkpoint in `model`, how large it is and under which licence; known of the model's own alone."""
    source = model.source
    if source is None or source.address != model.checkpoint.removeprefix(PAGE):
        return "size and licence unknown"
    return f"published by {source.host}, about {source.megabytes} MB, licence {source.licence}"


def by_hand(model: DictConfig) -> str:
    """What to do with a checkpoint file that was downloaded by other means."""
    options = f" {model.source.convert}" if model.source is not None and model.source.convert else ""
    return (f"download it yourself, run python -m diffprune.convert <file> <folder>{options}, "
            "and give model.checkpoint=<folder>")
