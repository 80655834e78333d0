"""Model families: found by the network's class, from outside the package by their module, and in folders of every age."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel, VQModel
from omegaconf import DictConfig, OmegaConf

from diffprune.api.pruning import prune
from diffprune.models.cost import example_inputs, measure
from diffprune.models.dense import DenseModel
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import Ddpm, DiT, Family, Latent, StableDiffusion, family_for
from diffprune.models.families.latent import ClassEmbedder
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning.criteria import Magnitude
from diffprune.runs.cache import Cache
from diffprune.runtime.errors import UserError
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions
from diffprune.stages.options import import_family, load_dense
from tests.conftest import ROOT

OUTSIDE = '''
"""A family of one's own: images are halved before they are denoised."""
from dataclasses import dataclass
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from diffprune.models.families import Family

class Shifted(UNet2DModel):
    """A network of one's own."""

class Scale(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(value))

@dataclass
class Halved(Family):
    kinds = (Shifted,)
    fixed = {"scale": Scale}
    scale: Scale | None = None

    def encode(self, images):
        return images * self.scale.factor

    def decode(self, latents):
        return latents / self.scale.factor
'''
ARCHITECTURE = {
    "unet": {"_target_": "halved_family.Shifted", "sample_size": 8, "in_channels": 1, "out_channels": 1,
             "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
             "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]},
    "family": {"_target_": "halved_family.Halved", "scale": {"_target_": "halved_family.Scale"}},
    "scheduler": {"_target_": "diffusers.DDIMScheduler"}}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of Python's modules, outside the repository, with a family in it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "halved_family.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    registered = list(Family.registered)
    yield tmp_path / "modules"
    Family.registered[:] = registered
    sys.modules.pop("halved_family", None)


@pytest.fixture
def halved(outside: Path, tmp_path: Path) -> DiffusionModel:
    return DenseModel("halved", None, ARCHITECTURE, 0, Cache(tmp_path / "cache")).load()


@pytest.fixture
def configured(outside: Path, config, tmp_path: Path) -> DictConfig:
    """The run that a configuration of the model outside the repository describes."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    options = {"name": "halved", "checkpoint": None, "source": None, **ARCHITECTURE}
    (tmp_path / "conf" / "model" / "halved.yaml").write_text(
        "defaults: [/schema@_here_: family_model, _self_]\n" + OmegaConf.to_yaml(options))
    return config(f"hydra.searchpath=[{tmp_path / 'conf'}]", "model=halved")


def latent_model() -> DiffusionModel:
    torch.manual_seed(0)
    return DiffusionModel(
        UNet2DConditionModel(
            sample_size=4, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4, attention_head_dim=1, cross_attention_dim=8).eval(),
        DDIMScheduler(clip_sample=False),
        Latent(VQModel(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                       up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=12).eval(),
               ClassEmbedder(n_classes=5, embed_dim=8).eval()))


@pytest.mark.parametrize(("kind", "folders", "family"), [
    (UNet2DModel, [], Ddpm), (UNet2DModel, ["scheduler", "vqvae"], Latent), (UNet2DConditionModel, ["vqvae"], Latent),
    (UNet2DConditionModel, ["text_encoder", "vae"], StableDiffusion), (DiTTransformer2DModel, ["vae"], DiT),
    (torch.nn.Linear, ["vqvae"], Family)])
def test_a_family_is_found_by_the_networks_class_and_the_networks_beside_it(kind: type, folders: list[str],
                                                                            family: type) -> None:
    assert family_for(kind, folders) is family


def test_a_family_from_outside_the_repository_is_built_and_used(halved: DiffusionModel) -> None:
    images = torch.randn(2, 1, 8, 8)
    assert type(halved.family).__name__ == "Halved"
    assert torch.equal(halved.to_latent(images), images / 2)
    assert torch.equal(halved.to_image(images / 2), images)
    assert not any(parameter.requires_grad for part in halved.networks[1:] for parameter in part.parameters())
    assert list(example_inputs(halved.unet)) == ["sample", "timestep"]


def test_a_family_from_outside_the_repository_is_chosen_like_any_other_model(configured: DictConfig) -> None:
    model = load_dense(configured)
    assert type(model.family).__name__ == "Halved"
    assert draw(model, range(2), SamplerOptions(2)).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_a_folder_of_such_a_model_names_its_family_and_is_loaded_in_a_new_process(halved: DiffusionModel, outside: Path,
                                                                                  tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(halved, folder)
    assert json.loads((folder / "unet" / "widths.json").read_text())["family"] == "halved_family.Halved"
    script = ("import sys; from pathlib import Path; import halved_family;"
              "from diffprune.models.model_folder import load_model; model = load_model(Path(sys.argv[1]));"
              "print(type(model.family).__name__, model.key)")
    done = subprocess.run([sys.executable, "-c", script, folder], cwd=ROOT, capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(outside), "OMP_NUM_THREADS": "1"})
    assert done.stdout.split() == ["Halved", halved.key]


def test_a_folder_that_is_loaded_imports_no_module_that_it_names(outside: Path, tmp_path: Path) -> None:
    save_model(latent_model(), tmp_path / "model")
    widths = tmp_path / "model" / "unet" / "widths.json"
    widths.write_text(json.dumps(json.loads(widths.read_text()) | {"family": "halved_family.Halved"}))
    with pytest.raises(UserError, match=r"names the model family halved_family\.Halved, which is not loaded: import its"):
        load_model(tmp_path / "model")
    assert "halved_family" not in sys.modules


def test_a_run_imports_the_family_that_its_configuration_names(configured: DictConfig) -> None:
    import_family(configured)
    assert "halved_family" in sys.modules
    configured.model.family._target_ = "no_such_module.Family"
    with pytest.raises(UserError, match=r"model\.family\._target_=no_such_module\.Family cannot be imported"):
        import_family(configured)


@pytest.mark.parametrize("named", ["no_such_module.Family", "torch.nn.Linear", "diffprune.models.families.family.Missing"])
def test_a_folder_with_a_family_that_is_not_there_is_refused(tmp_path: Path, named: str) -> None:
    save_model(latent_model(), tmp_path / "model")
    widths = tmp_path / "model" / "unet" / "widths.json"
    widths.write_text(json.dumps(json.loads(widths.read_text()) | {"family": named}))
    with pytest.raises(UserError, match="which is not loaded"):
        load_model(tmp_path / "model")


def test_a_folder_that_names_the_class_embeddings_old_module_still_loads(tmp_path: Path) -> None:
    model, folder = latent_model(), tmp_path / "model"
    save_model(model, folder)
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    assert content["class_embedder"] == ["diffprune.models.families.latent", "ClassEmbedder"]
    index.write_text(json.dumps(content | {"class_embedder": ["diffprune.latent", "ClassEmbedder"]}))
    (folder / "checksums.sha256").unlink()      # as that version wrote none
    loaded = load_model(folder)
    assert loaded.key == model.key
    assert isinstance(loaded.family, Latent)
    assert loaded.classes == 4


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_class_embeds": 4}])
def test_the_example_inputs_are_in_the_order_of_the_networks_signature(options: dict[str, int]) -> None:
    unet = latent_model().unet
    unet = type(unet).from_config({**unet.config, **options, "_use_default_values": []}).eval()
    inputs = example_inputs(unet)
    assert list(inputs) == ["sample", "timestep", "encoder_hidden_states", *(["class_labels"] if options else [])]
    assert torch.equal(unet(*inputs.values()).sample, unet(**inputs).sample)


RESNET_SAMPLERS = {"downsample_type": "resnet", "upsample_type": "resnet"}
RESNET_BLOCKS = {"down_block_types": ("DownBlock2D", "ResnetDownsampleBlock2D"),
                 "up_block_types": ("ResnetUpsampleBlock2D", "UpBlock2D")}


def unet_with(**options) -> UNet2DModel:
    plain = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    torch.manual_seed(0)
    return UNet2DModel(**{"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32),
                          "layers_per_block": 1, "norm_num_groups": 4} | plain | options).eval()


@pytest.mark.parametrize("options", [RESNET_SAMPLERS, RESNET_BLOCKS], ids=["samplers", "blocks"])
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_residual_blocks_that_resample_are_pruned_like_others(tmp_path: Path, options: dict, ratio: float) -> None:
    unet = unet_with(**options)
    report = prune(unet, ratio, Magnitude())
    assert report.params == sum(p.numel() for p in unet.parameters()) < report.params_dense
    assert [entry["layer"] for entry in report.skipped] == ["conv_out"]
    save_model(DiffusionModel(unet, DDIMScheduler()), tmp_path / "model")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    assert torch.equal(load_model(tmp_path / "model").unet(x, t).sample, unet(x, t).sample)


K_BLOCKS = {"down_block_types": ("KDownBlock2D",) * 2, "up_block_types": ("KUpBlock2D",) * 2, "block_out_channels": (32, 64)}


@pytest.mark.parametrize(("options", "message"), [
    (K_BLOCKS, r"blocks of a kind that cannot be pruned here \(KDownBlock2D, KUpBlock2D\)"),
    ({"class_embed_type": "timestep"}, "conditional by its class_embed_type"),
    ({"time_embedding_type": "fourier"}, "given the logarithm of a noise level"),
    ({"in_channels": 2}, r"takes 2 channels and gives 1: only models that take an image or latent alone"),
    ({"sample_size": None}, "UNet2DModel has sample_size=None"),
    ({"sample_size": (8, 16)}, r"shape \(1, 8, 16\), dataset=digits has \(1, 8, 8\)")])
def test_a_unet_that_no_run_can_use_is_refused_before_any_work(tmp_path: Path, config, options: dict, message: str) -> None:
    unet_with(**options).save_pretrained(tmp_path / "model" / "unet")
    DDIMScheduler().save_pretrained(tmp_path / "model" / "scheduler")
    with pytest.raises(UserError, match=message):
        load_dense(config("model=diffusers", f"model.checkpoint={tmp_path / 'model'}", "dataset=digits"))


def test_a_list_of_equal_sides_is_a_square(tmp_path: Path, config) -> None:
    unet_with(sample_size=(8, 8)).save_pretrained(tmp_path / "model" / "unet")
    DDIMScheduler(num_train_timesteps=10).save_pretrained(tmp_path / "model" / "scheduler")
    model = load_dense(config("model=diffusers", f"model.checkpoint={tmp_path / 'model'}", "dataset=digits",
                              "sampler.steps=10"))
    assert model.image_shape == (1, 8, 8)
    assert measure(model.unet) == measure(unet_with())
    assert draw(model, range(2), SamplerOptions(2)).shape == (2, 8, 8, 1)
