"""Folders of the paper's models, a quarter as wide with as many layers: pruned at every ratio they outlast the disk."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import Latent
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Random
from diffprune.pruning.surgery import cut
from tests.models.test_model_folder import digests

MODELS = ("ddpm_cifar10", "ddpm_celeba", "ddpm_lsun_church", "ddpm_lsun_bedroom", "ldm_imagenet")


def quarter(options: DictConfig, **changes: int) -> torch.nn.Module:
    """The network of `options` with a quarter of its channels and of its norm's groups."""
    own = OmegaConf.to_container(options, resolve=True)
    widths = [width // 4 for width in own["block_out_channels"]]
    return instantiate(own | {"block_out_channels": widths, "norm_num_groups": 8} | changes, _convert_="all").eval()


def small(cfg: DictConfig) -> DiffusionModel:
    scheduler = instantiate(cfg.model.scheduler, _convert_="all")
    if "vqvae" not in cfg.model:
        return DiffusionModel(quarter(cfg.model.unet, sample_size=32), scheduler)
    return DiffusionModel(
        quarter(cfg.model.unet, sample_size=16, cross_attention_dim=32), scheduler,
        Latent(quarter(cfg.model.vqvae, sample_size=64, num_vq_embeddings=64),
               instantiate(cfg.model.class_embedder, embed_dim=32, _convert_="all")))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_saving_loading_and_saving_again_is_bit_equal_at_every_ratio(config, tmp_path: Path, name: str) -> None:
    cfg = config(f"model={name}")
    sizes = []
    for tenths in range(1, 9) if name == MODELS[0] else (1, 3, 5, 8):
        model = small(cfg)
        sizes.append(cut(model.unet, Random(), Allocation(tenths / 10)).params)
        save_model(model, tmp_path / "first")
        save_model(load_model(tmp_path / "first"), tmp_path / "again")
        assert digests(tmp_path / "again") == digests(tmp_path / "first")
    assert sizes == sorted(sizes, reverse=True)
