"""The paper's models: their sizes, dense and pruned, and that the original checkpoints fit them."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel, VQModel

from diffprune.models.cost import measure
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.latent import ClassEmbedder
from diffprune.models.formats import compvis_config, ddim
from diffprune.models.formats.compvis import build
from diffprune.pruning import criteria
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.surgery import cut
from diffprune.stages.options import dense_model
from tests.models.test_formats_compvis import IMAGENET

DATASETS = {"ddpm_cifar10": "cifar10", "ddpm_celeba": "celeba", "ddpm_lsun_church": "lsun_church",
            "ddpm_lsun_bedroom": "lsun_bedroom", "ldm_imagenet": "imagenet"}
SIZES = {   # PAPER: dense parameters and MACs, then at ratio .3
    "ddpm_cifar10": (35_746_307, 6.0655e9, 19_851_157, 3.3928e9),
    "ddpm_celeba": (78_700_803, 23.9230e9, 43_735_002, 13.3221e9),
    "ddpm_lsun_church": (113_673_219, 248.6912e9, 63_205_897, 138.87e9),
}


@pytest.fixture
def skeleton(config):
    """The model that `model=` names, without weights."""
    def built(name: str) -> DiffusionModel:
        with torch.device("meta"):
            return dense_model(config(f"model={name}", f"dataset={DATASETS[name]}")).blank()
    return built


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_ddpm_has_the_papers_sizes_dense_and_pruned(skeleton, name: str) -> None:
    params_dense, macs_dense, params, macs = SIZES[name]
    report = cut(skeleton(name).unet, criteria.Random(), Allocation(0.3))
    assert (report.params_dense, report.params) == (params_dense, params)
    assert report.macs_dense == pytest.approx(macs_dense, rel=1e-3)
    assert report.macs == pytest.approx(macs, rel=1e-3)


@pytest.mark.slow
def test_the_latent_model_has_the_papers_sizes_dense_and_pruned(skeleton) -> None:
    report = cut(skeleton("ldm_imagenet").unet, criteria.Random(), Allocation(0.3))
    assert report.params_dense == 400_920_579
    assert report.macs_dense == pytest.approx(99.82e9, rel=1e-3)
    assert report.params == pytest.approx(189.43e6, rel=5e-3)
    assert report.macs == pytest.approx(52.71e9, rel=5e-3)


def test_both_lsun_models_are_one_network(skeleton) -> None:
    church, bedroom = (skeleton(f"ddpm_lsun_{what}").unet.config for what in ("church", "bedroom"))
    assert dict(church) == dict(bedroom)


@pytest.mark.parametrize("name", DATASETS)
def test_a_model_draws_its_data_sets_images(skeleton, config, name: str) -> None:
    cfg = config(f"model={name}", f"dataset={DATASETS[name]}")
    assert skeleton(name).image_shape == (cfg.dataset.channels, cfg.dataset.resolution, cfg.dataset.resolution)


@pytest.mark.parametrize("name", DATASETS)
def test_the_size_that_is_announced_is_the_networks(skeleton, config, name: str) -> None:
    count = sum(parameter.numel() for part in skeleton(name).networks for parameter in part.parameters())
    megabytes = config(f"model={name}", f"dataset={DATASETS[name]}").model.source.megabytes
    assert megabytes == pytest.approx(4 * count / 1e6, rel=0.01)


@pytest.mark.parametrize("name", [name for name in DATASETS if name.startswith("ddpm")])
def test_attention_is_at_resolution_16(skeleton, name: str) -> None:
    config = skeleton(name).unet.config
    sides = [config.sample_size >> level for level, kind in enumerate(config.down_block_types) if "Attn" in kind]
    assert sides == [16]


@pytest.mark.parametrize("name", ["ddpm_cifar10", "ddpm_celeba", "ddpm_lsun_church"])
def test_what_a_ddim_checkpoint_tells_of_its_architecture_is_the_model(skeleton, name: str) -> None:
    model = skeleton(name)
    levels = len(model.unet.config.block_out_channels)
    state = {ddim.original_name(key, levels): tensor for key, tensor in model.unet.state_dict().items()}
    with torch.device("meta"):
        inferred = UNet2DModel(**ddim.infer_config(state, model.unet.config.sample_size))
    assert behaviour(inferred.config) == behaviour(model.unet.config)
    assert behaviour(ddim.ddim_scheduler().config) == behaviour(model.scheduler.config)


def test_the_original_imagenet_config_describes_the_latent_model(skeleton) -> None:
    model, original = skeleton("ldm_imagenet"), compvis_config.read(IMAGENET)
    with torch.device("meta"):
        assert behaviour(UNet2DConditionModel(**original.unet).config) == behaviour(model.unet.config)
        assert behaviour(VQModel(**original.vqvae).config) == behaviour(model.family.vqvae.config)
        assert behaviour(ClassEmbedder(**original.class_embedder).config) == behaviour(model.family.class_embedder.config)
    assert behaviour(build(IMAGENET, None).scheduler.config) == behaviour(model.scheduler.config)
    assert measure(model.unet).params == 400_920_579


def behaviour(config) -> dict:
    """A config without the note of which options were left at their default; sequences as lists."""
    return {key: list(value) if isinstance(value, tuple | list) else value
            for key, value in config.items() if key != "_use_default_values"}
