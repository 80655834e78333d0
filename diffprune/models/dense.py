"""The dense model of a run: shipped, from a folder, fetched, or with random weights."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffprune.config.model_source import by_hand, is_url, origin
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.formats.read import fill_model
from diffprune.models.model_folder import load_model, save_model
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import remove

SHIPPED = Path(__file__).parents[1] / "assets"
PARTS = ("unet", "vqvae", "class_embedder")


def load_dense(cfg: DictConfig) -> DiffusionModel:
    """The model before pruning, on the CPU, in evaluation mode; UserError when it cannot be had or does not fit."""
    model = random_model(cfg) if cfg.model.checkpoint is None else load_model(find(cfg))
    check_fit(model, cfg)
    return model


def load_start(cfg: DictConfig, run: Run) -> DiffusionModel:
    """What is scored and pruned: the dense model, or in a later round what the one before has healed. On the CPU."""
    return load_dense(cfg) if run.before is None else load_model(run.before.finetuned)


def check_fit(model: DiffusionModel, cfg: DictConfig) -> None:
    """UserError where the model cannot draw the data set's images, or not in the way that is asked."""
    expected = (cfg.dataset.channels, cfg.dataset.resolution, cfg.dataset.resolution)
    if model.image_shape != expected:
        raise UserError(f"model={cfg.model.name} draws images of shape {model.image_shape}, dataset={cfg.dataset.name} has "
                        f"{expected}: choose a model of the data set's shape")
    channels = (model.unet.config.in_channels, model.unet.config.out_channels)
    if channels[0] != channels[1]:
        raise UserError(f"model={cfg.model.name} takes {channels[0]} channels and gives {channels[1]}: only models that "
                        "predict the noise and nothing else (no variance) can be scored, sampled and trained here")
    if "cross_attention_dim" in model.unet.config and model.class_embedder is None:
        raise UserError(f"model={cfg.model.name} is conditional and has no class_embedder/: only unconditional and "
                        "class-conditional models can be scored, sampled and trained here")
    if cfg.sampler.guidance is not None and model.class_embedder is None:
        raise UserError(f"sampler.guidance={cfg.sampler.guidance} needs a class-conditional model, "
                        f"model={cfg.model.name} is unconditional: leave it out or give sampler.guidance=null")


def random_model(cfg: DictConfig) -> DiffusionModel:
    """The architecture in `cfg.model` with PyTorch's default initialisation, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return blank_model(cfg)


def blank_model(cfg: DictConfig) -> DiffusionModel:
    """The architecture in `cfg.model`, on the present default device; its schedule is always on the CPU."""
    if "_target_" not in cfg.model.unet:
        raise UserError(f"model={cfg.model.name} has no architecture of its own: "
                        "give model.checkpoint=<folder> or a hub repository")
    parts = {name: instantiate(cfg.model[name], _convert_="all").eval() for name in PARTS if name in cfg.model}
    for part in list(parts.values())[1:]:
        part.requires_grad_(False)
    with torch.device("cpu"):
        return DiffusionModel(**parts, scheduler=instantiate(cfg.model.scheduler, _convert_="all"))


def find(cfg: DictConfig) -> Path:
    """The local folder of `model.checkpoint`, fetched first when it is an address or a hub repository (owner/name)."""
    checkpoint = cfg.model.checkpoint
    if checkpoint.startswith("shipped:"):
        return SHIPPED / checkpoint.removeprefix("shipped:")
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    from diffprune.models.fetch import fetch_repository
    return fetch_original(cfg) if is_url(checkpoint) else fetch_repository(checkpoint, origin(cfg.model))


def fetch_original(cfg: DictConfig) -> Path:
    """The model folder made of the checkpoint file at the address `model.checkpoint`, once for all runs."""
    from diffprune.models.fetch import fetch_file
    with torch.device("meta"):
        model = blank_model(cfg)
    url = cfg.model.checkpoint
    key = {"url": url, "unet": OmegaConf.to_container(cfg.model.unet, resolve=True)}
    with Cache(Path(cfg.paths.cache)).entry("models", key, "") as folder:
        if not folder.exists():
            original = folder.with_name(folder.name + (".safetensors" if url.endswith(".safetensors") else ".ckpt"))
            if not original.exists():
                fetch_file(url, original, origin(cfg.model), by_hand(cfg.model))
            try:
                save_model(fill_model(model, original), folder)
            except UserError as error:
                raise UserError(f"{error}; it came from {url}: delete it to fetch it again, or give a model folder that "
                                f"python -m diffprune.convert made of it with model.checkpoint=<folder>") from error
            remove(original)        # its sha256 stays beside the folder
        return folder
