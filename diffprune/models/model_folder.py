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
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hydra.utils import get_class
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import SHIPPED, Family, family_for, predictors
from diffprune.models.network import Kind, from_config
from diffprune.models.widths import narrow, narrowing
from diffprune.runtime.checksums import compared_with_list
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import atomic_folder, read_json, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
TORCH_WEIGHTS = "diffusion_pytorch_model.bin"       # as older hub repositories have them
SCHEDULER = "scheduler_config.json"
WIDTHS = "widths.json"

# Attention as diffusers named it before 0.15, which the hub's DDPMs still have.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_pipeline(folder: str | Path) -> DiffusionPipeline:
    """A ready diffusers pipeline for a model folder, pruned or dense; any scheduler of diffusers may replace its own.

    Raises UserError when the folder is missing, incomplete or damaged.
    """
    return pipeline_of(load_model(Path(folder)))


def pipeline_of(model: DiffusionModel) -> DiffusionPipeline:
    """The diffusers pipeline that draws with `model`."""
    return model.family.pipeline(model.unet, model.scheduler)


def save_model(model: DiffusionModel, folder: Path) -> None:
    """Writes the model folder by rename; saving what was loaded gives the same bytes."""
    kind = type(model.family)
    named = {} if kind in (*SHIPPED, Family) else {"family": f"{kind.__module__}.{kind.__qualname__}"}
    with atomic_folder(folder, mark=f"{kind.folder}/{WIDTHS}") as partial:
        pipeline_of(model).save_pretrained(partial)
        for name, network in model.family.networks.items():
            if isinstance(network, ModelMixin) and not (partial / name).exists():     # unknown to the pipeline
                network.save_pretrained(partial / name)
        unet = partial / kind.folder
        write_json(unet / WIDTHS, {"sha256": sha256(unet / WEIGHTS)} | named | narrowing(model.unet))


@compared_with_list
def load_model(folder: Path) -> DiffusionModel:
    """Reads a model folder in diffusers' layout, its UNet under `unet/` or at the root.

    Raises UserError with the file's name and what is wrong with it.
    """
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist: give a folder that holds model_index.json")
    named = family_named_in(network_folder(folder))
    unet, scheduler = load_unet(network_folder(folder)), load_scheduler(folder)
    family = named or family_for(type(unet), [entry.name for entry in folder.iterdir() if entry.is_dir()])
    fixed = {name: load_fixed(kind, folder / name) for name, kind in family.fixed.items() if (folder / name).is_dir()}
    return DiffusionModel(unet, scheduler, family(**fixed))


def network_folder(folder: Path) -> Path:
    """Where a model folder holds the noise predictor: beside its widths, in `unet/` or `transformer/`, or at its root."""
    names = [file.parent.name for file in folder.glob(f"*/{WIDTHS}")] + ["unet", "transformer"]
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def family_named_in(folder: Path) -> type[Family] | None:
    """The family that a network's folder names, imported; None where it names none, for a family of this package."""
    name = read_config(folder / WIDTHS).get("family") if (folder / WIDTHS).exists() else None
    if name is None:
        return None
    try:
        kind = get_class(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{folder / WIDTHS} names the model family {name}, which cannot be imported ({error}): "
                        "put its module on PYTHONPATH") from error
    if not issubclass(kind, Family):
        raise UserError(f"{folder / WIDTHS} names the model family {name}, which is no subclass of Family")
    return kind


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
    scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=True)
    assert isinstance(scheduler, DDIMScheduler)
    return scheduler


def load_fixed(kind: type[Kind], folder: Path) -> Kind:
    """A network that is neither pruned nor trained, in evaluation mode and without gradients."""
    network = from_config(kind, read_config(folder / "config.json"))
    try:
        network.load_state_dict(read_tensors(folder))
    except RuntimeError as error:
        raise UserError(f"the weights in {folder} do not belong to its config.json: copy both again") from error
    return network.eval().requires_grad_(False)


def load_unet(folder: Path) -> nn.Module:
    """A UNet or transformer in evaluation mode with the widths of the stored tensors."""
    config, widths, kinds = read_config(folder / "config.json"), folder / WIDTHS, predictors()
    if config.get("_class_name") not in kinds:
        raise UserError(f"{folder / 'config.json'} describes {config.get('_class_name')}: "
                        f"only {', '.join(kinds)} can be loaded")
    tensors = read_tensors(folder)
    with init_empty_weights():      # parameters alone: a position embedding is in no file
        unet = from_config(kinds[config["_class_name"]], config)
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
    except Damaged as error:
        raise UserError(f"{file} is not readable JSON: the model folder is damaged, copy it again") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a network's folder under their current names, checked against the checksum where one was stored."""
    file, widths = folder / WEIGHTS, folder / WIDTHS
    if not file.exists() and (folder / TORCH_WEIGHTS).exists():
        file = folder / TORCH_WEIGHTS
    if not file.exists():
        raise UserError(f"{file} is missing, and there is no {TORCH_WEIGHTS} either: this is not a complete model folder")
    if widths.exists() and sha256(file) != read_config(widths).get("sha256"):
        raise UserError(f"{file} differs from the checksum in {widths.name}: it is damaged, copy it again")
    return {current_name(name): tensor for name, tensor in read_weights(file).items()}


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors or torch file; no code in it runs."""
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}): copy it again") from error
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise UserError(f"{file} is not a readable file of tensors alone: copy it again, or get {WEIGHTS}") from error


def current_name(name: str) -> str:
    """The name that the current version of diffusers gives the tensor `name`."""
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
                  lambda match: f"{match[1]}.{OLD_ATTENTION[match[2]]}.", name)


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
