"""Model folders: diffusers' layout, widths read from the weights' own shapes.

A pruned UNet keeps its dense `config.json`; `unet/widths.json` lists what was narrowed, with the heads that narrowed
attention has left, and the shapes in the safetensors file are the truth that loading follows. Diffusers alone opens it with
`trust_remote_code=True`, through `unet/pruned.py` and the same list in `config.json`, and refuses it otherwise. (A
transformer's folder is `transformer/`.)
"""

import hashlib
import json
from collections.abc import Collection
from inspect import isfunction
from pathlib import Path
from shutil import copyfile
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from diffprune.models import pruned_network
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import SHIPPED, Family, family_for, predictors
from diffprune.models.network import Kind, WithoutWeights, class_name, from_config
from diffprune.models.noise_schedule import read_scheduler
from diffprune.models.pruned_network import WIDTHS as NOTED
from diffprune.models.weights import WEIGHTS, read_tensors
from diffprune.models.widths import narrow, note_widths
from diffprune.runtime.checksums import compared_with_list
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import atomic_folder, is_file, is_folder, read_json, write_json

ASSETS = Path(__file__).parents[1] / "assets"
SCHEDULER = "scheduler_config.json"
WIDTHS = "widths.json"
LOADER = "pruned"       # the name of the module that a pruned network's folder carries


def local_folder(checkpoint: str) -> Path:
    """The model folder that `checkpoint` names: one of the package's own for `shipped:NAME`, else a path."""
    name = checkpoint.removeprefix("shipped:")
    return Path(checkpoint).expanduser() if name == checkpoint else ASSETS / name


def pipeline_of(model: DiffusionModel) -> DiffusionPipeline:
    """The diffusers pipeline that draws with `model`."""
    return model.family.pipeline(model.unet, model.scheduler)


def save_model(model: DiffusionModel, folder: Path, pipeline: DiffusionPipeline | None = None) -> None:
    """Writes the model folder by rename; saving what was loaded gives the same bytes. It is laid out by the `pipeline` that
    draws with the model, by diffprune's own unless another is given."""
    kind = type(model.family)
    named = {} if kind in (*SHIPPED, Family) else {"family": class_name(kind)}
    widths = note_widths(model.unet)
    with atomic_folder(folder, mark=f"*/{WIDTHS}") as partial:
        (pipeline or pipeline_of(model)).save_pretrained(partial)
        for name, network in model.family.networks.items():
            if isinstance(network, ModelMixin) and not (partial / name).exists():     # unknown to the pipeline
                network.save_pretrained(partial / name)
        unet = partial / kind.folder
        write_json(unet / WIDTHS, {"sha256": sha256(unet / WEIGHTS)} | named | widths)
        if widths["narrowed"] and type(model.unet).__module__.startswith("diffusers."):
            add_loader(partial, unet)


def add_loader(folder: Path, network: Path) -> None:
    """Puts the code that opens a pruned `network` of a model `folder` beside it, and names it where diffusers looks."""
    copyfile(pruned_network.__file__, network / f"{LOADER}.py")
    entry = [LOADER, pruned_network.PrunedNetwork.__name__]
    changed = {folder / "model_index.json": {network.name: entry}, network / "config.json": {
        "auto_map": {"AutoModel": ".".join(entry)}}}
    for file, entries in changed.items():
        file.write_text(json.dumps(read_config(file) | entries, indent=2, sort_keys=True) + "\n")    # as diffusers writes


@compared_with_list
def load_model(folder: Path) -> DiffusionModel:
    """Reads a model folder in diffusers' layout, its UNet under `unet/` or at the root.

    `folder` may also be the UNet's own, beside which the other folders of the model lie: of `unet/` and `unet_ema/` one has
    to be chosen so. Raises UserError with the file's name and what is wrong with it.
    """
    if is_file(folder):
        raise UserError(f"{folder} is a file: give a model folder, which holds config.json and the noise schedule too "
                        "(python -m diffprune.convert makes one of a checkpoint of another layout)")
    if not is_folder(folder):
        raise UserError(f"model folder {folder} does not exist: give a folder that holds model_index.json")
    network = network_folder(folder)
    if network == folder and not scheduler_file(folder).exists() and scheduler_file(folder.parent).exists():
        folder = folder.parent
    named, unet, scheduler = family_named_in(network), load_unet(network), load_scheduler(folder)
    others = other_networks(folder, network)
    family = family_of(type(unet), others, str(folder), named)
    fixed = {name: kind(folder / name) if isfunction(kind) else load_fixed(kind, folder / name)
             for name, kind in family.fixed.items() if name in others}
    return DiffusionModel(unet, scheduler, family(**fixed))


def network_folder(folder: Path) -> Path:
    """Where a model folder holds the noise predictor: beside its widths, in `unet/` or `transformer/`, or at its root."""
    names = [file.parent.name for file in folder.glob(f"*/{WIDTHS}")] + ["unet", "transformer"]
    network = next((folder / name for name in names if (folder / name).is_dir()), folder)
    if network != folder and (averages := [config.parent for config in folder.glob(f"{network.name}_*/config.json")]):
        raise UserError(f"{folder} holds {network.name} and {', '.join(average.name for average in averages)}: say which is "
                        f"meant with model.checkpoint={network} or model.checkpoint={averages[0]}")
    if network == folder and not (folder / "config.json").exists() and (
            inside := sorted([*folder.glob("*/model_index.json"), *folder.glob("*/*/model_index.json")])):
        raise UserError(f"{folder} is not a model folder, but holds {len(inside)}: give for example {inside[0].parent}")
    return network


def other_networks(folder: Path, network: Path) -> set[str]:
    """The names of a model's networks besides the noise predictor: those that its index lists, and those that lie there."""
    index = folder / "model_index.json"
    listed = read_config(index) if index.exists() else {}
    names = {name for name, kind in listed.items() if isinstance(kind, list) and None not in kind}
    names |= {file.parent.name for kind in ("config.json", "diffusion_pytorch_model*") for file in folder.glob(f"*/{kind}")}
    return {name for name in names - {network.name, "scheduler"} if not name.startswith(("unet", "transformer"))}


def family_named_in(folder: Path) -> type[Family] | None:
    """The family that a network's folder names; None where it names none, for a family of this package. It has to be
    imported already: a folder may come from anybody, and what it names is not run for that."""
    name = read_config(folder / WIDTHS).get("family") if (folder / WIDTHS).exists() else None
    if name is None:
        return None
    for family in Family.registered:
        if class_name(family) == name:
            return family
    raise UserError(f"{folder / WIDTHS} names the model family {name}, which is not loaded: import its module first, or in "
                    "a run choose the model whose configuration names it")


def family_of(kind: type[nn.Module], others: Collection[str], place: str, named: type[Family] | None = None) -> type[Family]:
    """The family of a predictor of class `kind` beside the networks `others`: the one that is `named`, or that the networks
    tell. UserError where it has no use for one of them, which `place` holds."""
    family = named or family_for(kind, others)
    if unused := sorted(set(others) - set(family.fixed) - set(family.ignored)):
        raise UserError(f"{place} holds {', '.join(unused)} besides the {kind.__name__}: it is a model of another "
                        "kind than those that can be scored, sampled and trained here")
    return family


def scheduler_file(folder: Path) -> Path:
    """A model folder's noise schedule: in a folder of its own, or at the root as in older hub repositories."""
    at_root, file = folder / SCHEDULER, folder / "scheduler" / SCHEDULER
    return at_root if at_root.exists() and not file.exists() else file


def load_scheduler(folder: Path) -> Any:
    """The folder's noise schedule, one in betas as DDIM without clipping, as the paper samples."""
    file = scheduler_file(folder)
    if not file.exists():
        raise UserError(f"{file} is missing, and so is {folder / SCHEDULER}: without the noise schedule that it was trained "
                        "with a model can neither be scored nor sampled, copy the file from where the model comes from")
    try:
        return read_scheduler(read_config(file))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def load_fixed(kind: Any, folder: Path) -> Any:
    """A network that is neither pruned nor trained, in evaluation mode and without gradients."""
    config = read_config(folder / "config.json")
    if issubclass(kind, VQModel) and config.get("scaling_factor") is None:
        config["scaling_factor"] = 1.0      # older folders name none; diffusers' default is the scale of another model
    is_kl = config.get("_class_name") == AutoencoderKL.__name__      # a first stage of either kind may lie there
    network: Any = build(AutoencoderKL if is_kl else kind, config, folder)
    try:
        network.load_state_dict(read_tensors(folder))
    except RuntimeError as error:
        raise UserError(f"the weights in {folder} do not belong to its config.json: copy both again") from error
    return network.eval().requires_grad_(False)


def load_unet(folder: Path) -> nn.Module:
    """A UNet or transformer in evaluation mode with the widths of the stored tensors."""
    config, widths, kinds = read_config(folder / "config.json"), folder / WIDTHS, predictors()
    if str(config.get("_class_name")) not in kinds:
        raise UserError(f"{folder / 'config.json'} describes {config.get('_class_name')}: "
                        f"only {', '.join(kinds)} can be loaded")
    stored = read_config(widths) if widths.exists() else {}
    if stored and is_file(folder / WEIGHTS) and sha256(folder / WEIGHTS) != stored.get("sha256"):
        raise UserError(f"{folder / WEIGHTS} differs from the checksum in {WIDTHS}: it is damaged, copy it again")
    tensors, heads = read_tensors(folder), (stored or config.get(NOTED, {})).get("heads", {})
    config.pop("auto_map", None)
    with WithoutWeights():
        unet = build(kinds[config["_class_name"]], config, folder)
    narrowed = narrow(unet, {name: tensor.shape for name, tensor in tensors.items()}, heads, folder)
    # Copied, not assigned: the file's tensors are not aligned in memory, and CPU kernels round differently on them.
    unet.load_state_dict(tensors)
    if narrowed:
        note_widths(unet)
    return unet.eval()


def build(kind: type[Kind], config: dict[str, Any], folder: Path) -> Kind:
    """The network that a folder's config.json describes, without the weights beside it."""
    try:
        return from_config(kind, config)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"no {kind.__name__} can be made of {folder / 'config.json'} ({error}): copy it again") from error


def read_config(file: Path) -> dict[str, Any]:
    """The options in a JSON file of a model folder."""
    try:
        config = read_json(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: this is not a complete model folder") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except Damaged as error:
        raise UserError(f"{file} is not readable JSON: the model folder is damaged, copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no options: the model folder is damaged, copy it again")
    return config


def sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
