"""Model folders: what is saved is what is loaded; damage is named."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
    VQModel,
)

import diffprune
from diffprune.api.pruning import prune
from diffprune.models import model_folder
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import Latent
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.weights import WEIGHTS
from diffprune.pruning import criteria
from diffprune.runtime.errors import Damaged, UserError
from tests.conftest import ROOT, tiny_unet


def digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*")) if f.is_file()}


def pruned_folder(tmp_path: Path, ratio: float = 0.5) -> tuple[torch.nn.Module, Path]:
    unet = tiny_unet()
    prune(unet, ratio, criteria.Magnitude())
    save_model(DiffusionModel(unet, DDIMScheduler(clip_sample=False)), tmp_path / "model")
    return unet, tmp_path / "model"


@pytest.mark.parametrize("ratio", [r / 10 for r in range(9)])
def test_saving_loading_and_saving_again_gives_the_same_bytes(tmp_path: Path, ratio: float) -> None:
    unet, folder = pruned_folder(tmp_path, ratio)
    loaded = load_model(folder)
    save_model(loaded, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(folder)
    x, t = torch.ones(1, 1, 8, 8), torch.tensor([5])
    assert torch.equal(loaded.unet(x, t).sample, unet(x, t).sample)


def test_plain_diffusers_refuses_a_pruned_folder(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size mismatch"):
        UNet2DModel.from_pretrained(folder / "unet")
    with pytest.raises((ValueError, RuntimeError, OSError)):
        DDIMPipeline.from_pretrained(folder)


def test_plain_diffusers_loads_a_dense_folder(tmp_path: Path) -> None:
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "dense")
    assert UNet2DModel.from_pretrained(tmp_path / "dense" / "unet").config.sample_size == 8


@pytest.mark.slow
def test_loading_needs_no_pruning_library(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    script = "import sys, diffprune; diffprune.load_pipeline(sys.argv[1]); sys.exit('torch_pruning' in sys.modules)"
    subprocess.run([sys.executable, "-c", script, folder], check=True, cwd=ROOT)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler])
def test_a_pruned_pipeline_draws_with_any_scheduler(tmp_path: Path, scheduler: type) -> None:
    _, folder = pruned_folder(tmp_path)
    pipeline = diffprune.load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    if scheduler is DDIMScheduler:
        images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
        assert images.shape == (2, 8, 8, 1)
        return
    pipeline.scheduler.set_timesteps(3)
    x = torch.randn(2, 1, 8, 8)
    for t in pipeline.scheduler.timesteps:
        x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample.detach()
    assert x.isfinite().all()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="checksum"):
        load_model(folder)
    (folder / "unet" / "widths.json").unlink()
    with pytest.raises(UserError, match="no checkpoint or is damaged"):
        load_model(folder)


@pytest.mark.parametrize("change", [
    lambda content: content.replace(b"UNet2DModel", b"UNet2DModul"), lambda content: content.replace(b'"', b"'"),
    lambda content: b"\xff" + content], ids=["class", "JSON", "UTF-8"])
def test_damage_to_a_configuration_is_named_as_damage(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    _, folder = pruned_folder(tmp_path)
    file = folder / "unet" / "config.json"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(Damaged, match=r"unet/config\.json is missing or differs from its checksum in checksums\.sha256"):
        load_model(folder)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    file = folder / "unet" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        load_model(folder)


def test_foreign_weights_are_refused_with_the_tensors_names(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    save_model(DiffusionModel(tiny_unet(layers=2), DDIMScheduler()), tmp_path / "other")
    (folder / "unet" / WEIGHTS).write_bytes((tmp_path / "other" / "unet" / WEIGHTS).read_bytes())
    (folder / "unet" / "widths.json").unlink()
    with pytest.raises(UserError, match=r"resnets\.1"):
        load_model(folder)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("unet/config.json", "{", "not readable JSON"), ("unet/config.json", None, "is missing"),
    ("unet/config.json", json.dumps({"_class_name": "Elsewhere"}), "describes Elsewhere"),
    ("unet/config.json", "[]", "holds no options"), ("unet/widths.json", "3", "holds no options"),
    ("unet/config.json", json.dumps({"_class_name": "UNet2DModel", "down_block_types": ["Odd"]}), "no UNet2DModel can be"),
    (f"unet/{WEIGHTS}", None, "is missing"), ("scheduler/scheduler_config.json", None, "is missing")])
def test_an_incomplete_folder_is_refused_in_one_sentence(tmp_path: Path, file: str, content: str | None,
                                                         message: str) -> None:
    _, folder = pruned_folder(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_what_was_narrowed_is_listed(tmp_path: Path) -> None:
    unet, folder = pruned_folder(tmp_path)
    listed = json.loads((folder / "unet" / "widths.json").read_text())["narrowed"]
    assert listed["conv_in.weight"] == [[8, 1, 3, 3], list(unet.conv_in.weight.shape)]


def latent_folder(tmp_path: Path) -> Path:
    """An unconditional model on latents of 4x4."""
    vqvae = VQModel(in_channels=1, out_channels=1, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                    norm_num_groups=4, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=32, scaling_factor=0.5)
    save_model(DiffusionModel(tiny_unet(channels=3, size=4), DDIMScheduler(), Latent(vqvae.eval())), tmp_path / "latent")
    return tmp_path / "latent"


@pytest.mark.parametrize(("stored", "scale"), [({"scaling_factor": 0.3}, 0.3), ({"scaling_factor": None}, 1.0), ({}, 1.0)])
def test_a_first_stage_without_a_scale_has_latents_as_they_are(tmp_path: Path, stored: dict, scale: float) -> None:
    file = latent_folder(tmp_path) / "vqvae" / "config.json"
    config = json.loads(file.read_text())
    del config["scaling_factor"]
    file.write_text(json.dumps(config | stored))
    (tmp_path / "latent" / "checksums.sha256").unlink()
    assert load_model(tmp_path / "latent").family.vqvae.config.scaling_factor == scale


@pytest.mark.parametrize("listed", [True, False])
def test_a_first_stage_of_which_something_is_missing_is_not_left_out(tmp_path: Path, listed: bool) -> None:
    folder = latent_folder(tmp_path)
    (folder / "vqvae" / "config.json").unlink()
    if listed:
        (folder / "vqvae").rename(tmp_path / "elsewhere")
    else:
        (folder / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"vqvae/config\.json is missing"):
        load_model(folder)


@pytest.mark.parametrize("listed", [True, False])
def test_a_model_on_the_latents_of_another_first_stage_is_no_model_of_pixels(tmp_path: Path, listed: bool) -> None:
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "model")
    if listed:
        index = tmp_path / "model" / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["diffusers", "AutoencoderKL"]}))
    else:
        AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path / "model" / "vae")
    with pytest.raises(UserError, match="holds vae besides the UNet2DModel: it is a model of another kind"):
        load_model(tmp_path / "model")


def test_what_other_threads_make_meanwhile_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = pruned_folder(tmp_path)
    make, reached, go_on = model_folder.from_config, threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> torch.nn.Module:
        reached.set()
        assert go_on.wait(60)
        return make(*arguments)
    monkeypatch.setattr(model_folder, "from_config", slowly)
    loaded: list[DiffusionModel] = []
    thread = threading.Thread(target=lambda: loaded.append(load_model(folder)))
    thread.start()
    assert reached.wait(60)
    layer = torch.nn.Linear(2, 2)
    go_on.set()
    thread.join()
    assert layer.weight.device.type == "cpu"
    assert all(p.device.type == "cpu" for p in loaded[0].unet.parameters())
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_models_loaded_in_threads_are_all_whole(tmp_path: Path) -> None:
    unet, folder = pruned_folder(tmp_path)
    loaded: list[DiffusionModel] = []
    threads = [threading.Thread(target=lambda: loaded.append(load_model(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x, t = torch.ones(1, 1, 8, 8), torch.tensor([5])
    assert len(loaded) == 4
    assert all(torch.equal(model.unet(x, t).sample, unet(x, t).sample) for model in loaded)


def test_loading_draws_nothing(tmp_path: Path) -> None:
    _, folder = pruned_folder(tmp_path)
    state = torch.random.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
