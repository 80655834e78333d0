"""Where a model's checkpoint comes from: its address, who publishes it, how to download it by hand."""

import re

from diffprune.config.schema import Model

PAGE = "page:"      # prefix of the address of a page where a person has to click to get a checkpoint


def is_hub_name(checkpoint: str) -> bool:
    """Whether `checkpoint` has the form owner/name of a repository on the Hugging Face hub."""
    return re.fullmatch(r"\w[\w-]*/[\w.-]+", checkpoint) is not None


def is_url(checkpoint: str) -> bool:
    return checkpoint.startswith(("https://", "http://"))


def origin(model: Model) -> str:
    """Who publishes the checkpoint of `model`, how large it is and its licence; unknown for one that the user gave."""
    source = model.source
    if source is None or source.address != (model.checkpoint or "").removeprefix(PAGE):
        return "size and licence unknown"
    return f"published by {source.host}, about {source.megabytes} MB, licence {source.licence}"


def by_hand(model: Model) -> str:
    """How to download the checkpoint by other means and what to do with the file."""
    options = f" {model.source.convert}" if model.source is not None and model.source.convert else ""
    return (f"download it yourself, run python -m diffprune.convert <file> <folder>{options}, "
            "and give model.checkpoint=<folder>")
