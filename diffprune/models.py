"""The dense model of a run: shipped, from a folder, fetched, or with random weights."""

import os
import re
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffprune.checkpoint import load_model, save_model
from diffprune.config.model_source import by_hand, is_url, origin
from diffprune.convert import fill_model
from diffprune.diffusion_model import DiffusionModel
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.distributed import present
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import remove

SHIPPED = Path(__file__).parent / "assets"
PARTS = ("unet", "vqvae", "class_embedder")


def device_of(cfg: DictConfig) -> torch.device:
    """The device that `device=` asks for, one GPU for each process of a run; raises UserError where the machine has none."""
    device = device_named(cfg.device)
    if device.type == "cpu" and cfg.precision == "fp16":
        raise UserError("precision=fp16 needs a GPU: on a CPU give precision=no or precision=bf16")
    if present().size > 1 and device.type == "cuda":
        if device.index is not None:
            raise UserError(f"device={cfg.device} is one GPU for {present().size} processes: give device=cuda")
        return torch.device("cuda", present().local % torch.cuda.device_count())    # Slurm may show each its own
    return device


def device_named(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N; raises UserError for another name and where the machine has none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"device={name} is not known: choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def placed(model: DiffusionModel, cfg: DictConfig) -> DiffusionModel:
    """`model` on the run's device, its convolutions in the run's `memory_format`."""
    formatted(model.unet, cfg)
    return model.to(device_of(cfg))


def formatted(unet: nn.Module, cfg: DictConfig) -> nn.Module:
    """`unet`, changed in place: its convolutions in the run's `memory_format`."""
    return unet.to(memory_format=torch.channels_last) if cfg.memory_format == "channels_last" else unet


def processes_for(cfg: DictConfig) -> int:
    """`sampler.processes`, or where it is null one for each GPU or, on a CPU, for each core, at most 8 (memory).

    A run that a launcher started several times has its processes already: each of them is one.
    """
    if present().size > 1:
        return 1
    if cfg.sampler.processes is not None:
        return cfg.sampler.processes
    device = device_of(cfg)
    if device.type == "cuda":
        return 1 if device.index is not None else torch.cuda.device_count()
    return min(8, len(os.sched_getaffinity(0)))


def device_of_process(cfg: DictConfig, index: int) -> torch.device:
    """The device of the `index`-th process of several: the GPUs in turn, unless `device=` names one or asks for the CPU."""
    device = device_of(cfg)
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", index % torch.cuda.device_count())


def autocast(cfg: DictConfig, device: torch.device) -> torch.autocast:
    """The context in which the network runs under `precision=`; parameters stay float32."""
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
    from diffprune.fetch import fetch_repository
    return fetch_original(cfg) if is_url(checkpoint) else fetch_repository(checkpoint, origin(cfg.model))


def fetch_original(cfg: DictConfig) -> Path:
    """The model folder made of the checkpoint file at the address `model.checkpoint`, once for all runs."""
    from diffprune.fetch import fetch_file
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
