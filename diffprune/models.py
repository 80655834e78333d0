"""The dense model of a run: shipped, from a folder, from a hub, or with random weights."""

import logging
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffprune.checkpoint import DiffusionModel, load_model
from diffprune.errors import UserError

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "assets"


def device_of(cfg: DictConfig) -> torch.device:
    """The device that `device=` asks for; raises UserError where the machine has none."""
    if cfg.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(cfg.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={cfg.device} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def autocast(cfg: DictConfig, device: torch.device) -> torch.autocast:
    """The context in which the network runs under `precision=`; parameters stay float32."""
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def load_dense(cfg: DictConfig) -> DiffusionModel:
    """The model before pruning, on the CPU, in evaluation mode; raises UserError when it cannot be found."""
    checkpoint = cfg.model.checkpoint
    model = random_model(cfg) if checkpoint is None else load_model(find(cfg))
    expected = (cfg.dataset.channels, cfg.dataset.resolution, cfg.dataset.resolution)
    if model.vqvae is None and model.shape != expected:
        raise UserError(f"model={cfg.model.name} draws images of shape {model.shape}, dataset={cfg.dataset.name} has "
                        f"{expected}: choose a model of the data set's shape")
    return model


def random_model(cfg: DictConfig) -> DiffusionModel:
    """The architecture of `model.unet` with PyTorch's default initialisation, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        unet = instantiate(cfg.model.unet, _convert_="all").eval()
    return DiffusionModel(unet, instantiate(cfg.model.scheduler, _convert_="all"))


def find(cfg: DictConfig) -> Path:
    """The local folder of `model.checkpoint`, fetched first when it names a hub repository (owner/name)."""
    checkpoint = cfg.model.checkpoint
    if checkpoint.startswith("shipped:"):
        return SHIPPED / checkpoint.removeprefix("shipped:")
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder
    return fetch(checkpoint, cfg)


def fetch(repository: str, cfg: DictConfig) -> Path:
    """Downloads a hub repository, after saying what, from whom and how large."""
    source = cfg.model.source
    about = f"about {source.megabytes} MB, licence {source.licence}, from {source.host}" if source else "from its hub"
    log.info("fetching %s (%s); give model.checkpoint=<folder> to use a local copy", repository, about)
    try:
        return Path(DiffusionPipeline.download(repository, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise UserError(f"model.checkpoint={repository} is neither a local folder nor could it be fetched "
                        f"({type(error).__name__}): download it elsewhere and give its folder") from error
