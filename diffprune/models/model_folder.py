"""Model folders: diffusers' layout, widths read from the weights' own shapes.

A pruned UNet keeps its dense `config.json`; `unet/widths.json` lists what was narrowed, with the heads that narrowed
attention has left, and the shapes in the safetensors file are the truth that loading follows. Plain diffusers stops at
the first shape that differs. (A transformer's folder is `transformer/`.)
"""

import hashlib
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    ModelMixin,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffprune.models.diffusion_model import DiffusionModel, pipeline_of
from diffprune.models.widths import narrow, narrowing
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_folder, read_json, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
TORCH_WEIGHTS = "diffusion_pytorch_model.bin"       # as older hub repositories have them
SCHEDULER = "scheduler_config.json"
WIDTHS = "widths.json"

# Attention as diffusers named it before 0.15, which the hub's DDPMs still have.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
UNETS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (UNet2DModel, UNet2DConditionModel,
                                                                      DiTTransformer2DModel)}


def load_pipeline(folder: str | Path) -> DiffusionPipeline:
    """A ready diffusers pipeline for a model folder, pruned or dense; any scheduler of diffusers may replace its own.

    Raises UserError when the folder is missing, incomplete or damaged.
    """
    return pipeline_of(load_model(Path(folder)))


def save_model(model: DiffusionModel, folder: Path) -> None:
    """Writes the model folder by rename; saving what was loaded gives the same bytes."""
    with atomic_folder(folder) as partial:
        pipeline_of(model).save_pretrained(partial)
        unet = network_folder(partial)
        write_json(unet / WIDTHS, {"sha256": sha256(unet / WEIGHTS)} | narrowing(model.unet))


def load_model(folder: Path) -> DiffusionModel:
    """Reads a model folder in diffusers' layout, its UNet under `unet/` or at the root.

    Raises UserError with the file's name and what is wrong with it.
    """
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist: give a folder that holds model_index.json")
    model = DiffusionModel(load_unet(network_folder(folder)), load_scheduler(folder))
    if (folder / "vqvae").is_dir():
        model.vqvae = load_part(VQModel, folder / "vqvae")
    if (folder / "vae").is_dir():
        model.vae = load_part(AutoencoderKL, folder / "vae")
    if (folder / "class_embedder").is_dir():
        from diffprune.models.families.latent import ClassEmbedder
        model.class_embedder = load_part(ClassEmbedder, folder / "class_embedder")
    return model


def network_folder(folder: Path) -> Path:
    """Where a model folder holds the network that predicts the noise: `unet/`, `transformer/`, or at its root."""
    return next((folder / name for name in ("unet", "transformer") if (folder / name).is_dir()), folder)


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The folder's noise schedule as DDIM without clipping, as the paper samples."""
    file = folder / "scheduler" / SCHEDULER
    if not file.exists() and not (folder / SCHEDULER).exists():
        raise UserError(f"{file} is missing, and so is {folder / SCHEDULER}: without the noise schedule that it was trained "
                        "with a model can neither be scored nor sampled, copy the file from where the model comes from")
    config = read_config(file if file.exists() else folder / SCHEDULER)
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"{folder} holds a model that predicts {config['prediction_type']}: only predictors of the noise "
                        "(epsilon) can be scored, sampled and trained here")
    return DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=True)


def load_part(kind: type[ModelMixin], folder: Path) -> ModelMixin:
    """A network that stays as it is, in evaluation mode and without gradients."""
    part = kind.from_config(read_config(folder / "config.json"))
    try:
        part.load_state_dict(read_tensors(folder))
    except RuntimeError as error:
        raise UserError(f"the weights in {folder} do not belong to its config.json: copy both again") from error
    return part.eval().requires_grad_(False)


def load_unet(folder: Path) -> nn.Module:
    """A UNet or transformer in evaluation mode with the widths of the stored tensors."""
    config, widths = read_config(folder / "config.json"), folder / WIDTHS
    if config.get("_class_name") not in UNETS:
        raise UserError(f"{folder / 'config.json'} describes {config.get('_class_name')}: "
                        f"only {', '.join(UNETS)} can be loaded")
    tensors = read_tensors(folder)
    with init_empty_weights():      # parameters alone: a position embedding is in no file
        unet = UNETS[config["_class_name"]].from_config(config)
    heads = read_config(widths).get("heads", {}) if widths.exists() else {}
    narrow(unet, {name: tensor.shape for name, tensor in tensors.items()}, heads, folder)
    # Copied, not assigned: the file's tensors are not aligned in memory, and CPU kernels round differently on them.
    unet.load_state_dict(tensors)
    return unet.eval()


def read_config(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: this is not a complete model folder") from error
    except ValueError as error:
        raise UserError(f"{file} is not readable JSON: the model folder is damaged, copy it again") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a network's folder under their present names, checked against the checksum where one was stored."""
    file, widths = folder / WEIGHTS, folder / WIDTHS
    if not file.exists() and (folder / TORCH_WEIGHTS).exists():
        file = folder / TORCH_WEIGHTS
    if not file.exists():
        raise UserError(f"{file} is missing, and there is no {TORCH_WEIGHTS} either: this is not a complete model folder")
    if widths.exists() and sha256(file) != read_config(widths).get("sha256"):
        raise UserError(f"{file} differs from the checksum in {widths.name}: it is damaged, copy it again")
    return {present_name(name): tensor for name, tensor in read_weights(file).items()}


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors or torch file; no code in it runs."""
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}): copy it again") from error
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise UserError(f"{file} is not a readable file of tensors alone: copy it again, or get {WEIGHTS}") from error


def present_name(name: str) -> str:
    """The name that a tensor's present version of diffusers gives it."""
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
                  lambda found: f"{found[1]}.{OLD_ATTENTION[found[2]]}.", name)


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
