"""Checkpoint files of other code bases, read without running anything in them."""

import pickle
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffprune.runtime.errors import UserError

if TYPE_CHECKING:
    from diffprune.models.diffusion_model import DiffusionModel

FORMATS = ("ddim", "compvis")
DAMAGED = "is no checkpoint or is damaged: give a .safetensors file or one written by torch.save"
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
# Lightning keys its callbacks by this class; an empty one of that name keeps such a file readable without Lightning.
LIGHTNING_KEY = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


def read_model(original: Path, format: str | None = None, config: Path | None = None, resolution: int | None = None,
               weights: str | None = None) -> "DiffusionModel":
    """The diffusion model in the checkpoint file `original`.

    `format` is "ddim" (needs `resolution`, pixels) or "compvis" (needs `config`, a file), None to infer it from the keys;
    `weights` is "model" or "ema" where the file holds both. UserError, naming the file, where that cannot be done.
    """
    content = read_checkpoint(original)
    settings = None if config is None else read_config(config)
    try:
        if (format or guess_format(content)) == "ddim":
            refuse("--config", config, "ddim")
            from diffprune.models.formats.ddim import convert_ddim
            return convert_ddim(content, resolution, weights)
        refuse("--resolution", resolution, "compvis")
        if settings is None:
            raise UserError("a CompVis checkpoint does not tell its architecture, give its YAML with --config")
        from diffprune.models.formats.compvis import convert_compvis
        return convert_compvis(content, settings, weights)
    except UserError as error:
        raise UserError(f"{original}: {error}") from error


def fill_model(model: "DiffusionModel", original: Path, weights: str | None = None) -> "DiffusionModel":
    """`model`, on the meta device until now, with the weights in the file `original`; UserError where they do not fit."""
    from diffprune.models.families import Ddpm, Latent
    from diffprune.models.formats.compvis import fill_compvis
    from diffprune.models.formats.ddim import fill_ddim
    content = read_checkpoint(original)
    try:
        if isinstance(model.family, Ddpm):
            return fill_ddim(model, content, weights)
        if isinstance(model.family, Latent) and len(model.networks) == 3:
            return fill_compvis(model, content, weights)
        raise UserError("no original format of such a model is known, give a model folder")
    except UserError as error:
        raise UserError(f"{original}: {error}") from error


def refuse(option: str, value: Any, format: str) -> None:
    """UserError where an option was given that has no meaning for this format."""
    if value is not None:
        raise UserError(f"{option} has no meaning for the {format} format, leave it out")


def guess_format(content: Any) -> str:
    """"ddim" or "compvis", by the names in the checkpoint; UserError where they are of neither."""
    if isinstance(content, list | tuple):
        return "ddim"
    from diffprune.models.formats.keys import as_state
    names = list(as_state(content))
    if any(name.startswith("model.diffusion_model.") for name in names):
        return "compvis"
    if any(name.startswith("down_blocks.") for name in names):
        raise UserError("its keys are diffusers' own: put it into a model folder, beside the config.json of its network")
    if any(name.startswith(("temb.dense.", "conv_in.", "down.")) for name in names):
        return "ddim"
    raise UserError("its keys are neither those of the DDIM code base nor of CompVis' latent diffusion; "
                    "check the file, or choose with --format")


def read_checkpoint(file: Path) -> Any:
    """Content of a safetensors or torch file, tensors and plain containers alone; UserError where it is neither."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    if not file.is_file():
        raise UserError(f"{file} is not a file, give the checkpoint to convert")
    # The list of safe classes is shared by all threads: it is left alone for a model folder's torch file.
    safe: list[Any] = [] if file.suffix == ".bin" else [(type("ModelCheckpoint", (), {}), LIGHTNING_KEY)]
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(safe) if safe else nullcontext():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
        raise UserError(f"{file} {DAMAGED}" if foreign is None else (
            f"{file} holds objects besides tensors ({foreign[1] or foreign[2]}), which could run any code; "
            "if you trust it, save its state dict alone with safetensors and convert that")) from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"{file} {DAMAGED}") from error


def read_config(file: Path) -> Mapping[str, Any]:
    """Content of a YAML or JSON file, its interpolations resolved; UserError where it is no mapping."""
    if file.suffix not in CONFIG_SUFFIXES:
        raise UserError(f"--config {file} is neither YAML nor JSON, give a file ending in {', '.join(CONFIG_SUFFIXES)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)     # JSON is YAML
    except OSError as error:
        raise UserError(f"--config {file} cannot be read ({error.strerror}), give the checkpoint's YAML") from error
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"--config {file} is not valid {file.suffix[1:].upper()}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {file} holds no mapping of options, give the checkpoint's YAML")
    return {str(name): value for name, value in content.items()}
