"""Model folders: diffusers' layout, widths read from the weights' own shapes.

A pruned UNet keeps its dense `config.json`; `unet/widths.json` lists what was narrowed, and the shapes in the
safetensors file are the truth that loading follows. Plain diffusers stops at the first shape that differs.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffprune.errors import UserError
from diffprune.files import appearing, read_json, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNETS: dict[str, type[nn.Module]] = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}


@dataclass
class DiffusionModel:
    """A noise predictor with the noise schedule it was trained on, and what a latent model needs besides."""
    unet: nn.Module
    scheduler: DDIMScheduler
    vqvae: VQModel | None = None
    class_embedder: nn.Module | None = None

    @property
    def alpha_bar(self) -> Tensor:
        """[T] float32, on the device of the UNet."""
        return self.scheduler.alphas_cumprod.to(next(self.unet.parameters()).device)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predicted noise [B, C, H, W] for `x_t` at timesteps `t` [B]."""
        return self.unet(x_t, t).sample

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the UNet denoises."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)


def pipeline_of(model: DiffusionModel) -> DiffusionPipeline:
    """The diffusers pipeline that draws with `model`."""
    if model.vqvae is None:
        return DDIMPipeline(unet=model.unet, scheduler=model.scheduler)
    from diffprune.latent import ClassConditionalLDMPipeline
    return ClassConditionalLDMPipeline(unet=model.unet, vqvae=model.vqvae, scheduler=model.scheduler,
                                       class_embedder=model.class_embedder)


def load_pipeline(folder: str | Path) -> DiffusionPipeline:
    """A ready diffusers pipeline for a model folder, pruned or dense; any scheduler of diffusers may replace its own.

    Raises UserError when the folder is missing, incomplete or damaged.
    """
    return pipeline_of(load_model(Path(folder)))


def save_model(model: DiffusionModel, folder: Path) -> None:
    """Writes the model folder by rename; saving what was loaded gives the same bytes."""
    with appearing(folder) as partial:
        pipeline_of(model).save_pretrained(partial)
        unet = partial / "unet"
        write_json(unet / "widths.json", {"sha256": sha256(unet / WEIGHTS), "narrowed": narrowed(model.unet)})


def load_model(folder: Path) -> DiffusionModel:
    """Reads a model folder in diffusers' layout; raises UserError with the file's name and what is wrong with it."""
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist: give a folder that holds model_index.json")
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    model = DiffusionModel(load_unet(unet), load_scheduler(folder))
    if (folder / "vqvae").is_dir():
        from diffprune.latent import ClassEmbedder
        model.vqvae = VQModel.from_pretrained(folder / "vqvae", use_safetensors=True)
        model.class_embedder = ClassEmbedder.from_pretrained(folder / "class_embedder", use_safetensors=True)
    return model


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The folder's noise schedule as DDIM without clipping, as the paper samples."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_config(file if file.exists() else folder / "scheduler_config.json")
    return DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=True)


def load_unet(folder: Path) -> nn.Module:
    """A UNet in evaluation mode with the widths of the stored tensors."""
    config = read_config(folder / "config.json")
    if config.get("_class_name") not in UNETS:
        raise UserError(f"{folder / 'config.json'} describes {config.get('_class_name')}: "
                        f"only {' and '.join(UNETS)} can be loaded")
    tensors = read_tensors(folder)
    with torch.device("meta"):
        unet = UNETS[config["_class_name"]].from_config(config)
    narrow(unet, {name: tensor.shape for name, tensor in tensors.items()}, folder)
    # Copied, not assigned: the file's tensors are not aligned in memory, and CPU kernels round differently on them.
    unet.to_empty(device="cpu").load_state_dict(tensors)
    return unet.eval()


def read_config(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: this is not a complete model folder") from error
    except ValueError as error:
        raise UserError(f"{file} is not readable JSON: the model folder is damaged, copy it again") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a UNet folder, checked against the checksum where one was stored."""
    file, widths = folder / WEIGHTS, folder / "widths.json"
    if not file.exists():
        raise UserError(f"{file} is missing: weights are read from safetensors files alone, convert other formats first")
    if widths.exists() and sha256(file) != read_config(widths).get("sha256"):
        raise UserError(f"{file} differs from the checksum in {widths.name}: it is damaged, copy it again")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}): copy it again") from error


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def narrow(unet: nn.Module, shapes: dict[str, torch.Size], folder: Path) -> None:
    """Gives every layer of `unet` the width of the stored tensors; raises UserError where names or ranks differ."""
    own = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    wrong = sorted(set(own) ^ set(shapes)) + [n for n in own if n in shapes and len(own[n]) != len(shapes[n])]
    if wrong:
        raise UserError(f"{folder / WEIGHTS} does not belong to its config.json: {', '.join(wrong[:10])} "
                        f"({len(wrong)} tensors) are missing, unknown or of another rank")
    for name, module in unet.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            shape = shapes[f"{name}.{leaf}" if name else leaf]
            if shape != parameter.shape:
                setattr(module, leaf, nn.Parameter(parameter.new_empty(shape)))
    synchronise(unet)


def synchronise(unet: nn.Module) -> None:
    """Makes every attribute that repeats a width follow the weights; diffusers asserts on some of them in forward."""
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
    for module in unet.modules():
        if isinstance(module, Downsample2D | Upsample2D) and isinstance(module.conv, nn.Conv2d):
            module.channels, module.out_channels = module.conv.in_channels, module.conv.out_channels
        elif isinstance(module, Attention):
            module.inner_dim = module.inner_kv_dim = module.to_q.out_features
            module.query_dim, module.cross_attention_dim = module.to_q.in_features, module.to_k.in_features
            module.out_dim = module.to_out[0].out_features
            module.scale = (module.inner_dim / module.heads) ** -0.5    # PAPER: the scale follows the current width


def narrowed(unet: nn.Module) -> dict[str, list[list[int]]]:
    """{tensor: [dense shape, present shape]} of every tensor that is narrower than the UNet's config says."""
    with torch.device("meta"):
        dense = type(unet).from_config(unet.config).state_dict()
    return {name: [list(dense[name].shape), list(tensor.shape)]
            for name, tensor in unet.state_dict().items() if tensor.shape != dense[name].shape}


def state_key(module: nn.Module) -> str:
    """Hex digest of every weight's name, shape and value: what caches of anything computed from them are filed under."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
