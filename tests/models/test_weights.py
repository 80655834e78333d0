"""Weights as people have them: variants, shards, torch files, wrappers; what cannot be read is said as what it is."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from diffprune.api.folders import load_pipeline
from diffprune.models import weights
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.weights import WEIGHTS, weight_files, write_tensors
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import sweep_partials
from tests.conftest import tiny_unet

State = dict[str, torch.Tensor]
TORCH, FP16 = "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without weights of its own."""
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "model")
    for name in (f"unet/{WEIGHTS}", "unet/widths.json", "checksums.sha256"):
        (tmp_path / "model" / name).unlink()
    return tmp_path / "model"


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("write", [
    lambda state, unet: torch.save(state, unet / TORCH),
    lambda state, unet: torch.save({"state_dict": state, "epoch": 3, "optimizer": {"state": {}}}, unet / TORCH),
    lambda state, unet: torch.save({"model": state, "rng": torch.zeros(3)}, unet / TORCH),
    lambda state, unet: torch.save(prefixed(state, "module."), unet / TORCH),
    lambda state, unet: save_file(prefixed(state, "_orig_mod."), unet / WEIGHTS),
    lambda state, unet: torch.save(prefixed(state, "module._orig_mod."), unet / TORCH),
    lambda state, unet: save_file({name.replace("mid_block.", "mid_block._orig_mod."): tensor
                                   for name, tensor in state.items()}, unet / WEIGHTS),
    lambda state, unet: save_file(state, unet / "diffusion_pytorch_model.ema.safetensors"),
    lambda state, unet: tiny_unet().save_pretrained(unet, max_shard_size="20KB"),
    lambda state, unet: tiny_unet().save_pretrained(unet, max_shard_size="20KB", safe_serialization=False),
], ids=["torch", "state_dict", "model", "module", "compiled", "both", "compiled block", "ema", "shards", "torch shards"])
def test_the_weights_are_read_whatever_holds_them(folder: Path, write: Callable[[State, Path], None]) -> None:
    state = tiny_unet().state_dict()
    write(state, folder / "unet")
    loaded = load_model(folder).unet.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_half_precision_variant_is_read_as_float32_and_named(folder: Path, shard: str,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    tiny_unet().half().save_pretrained(folder / "unet", variant="fp16", max_shard_size=shard)
    with caplog.at_level(logging.INFO):
        weight = load_model(folder).unet.conv_in.weight
    assert torch.equal(weight, tiny_unet().conv_in.weight.half().float())
    assert "reading the variant fp16" in caplog.text


def test_full_weights_go_before_shards_variants_and_torch_files() -> None:
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert weight_files([FP16, TORCH, *shards, WEIGHTS]) == {"": [WEIGHTS], "fp16": [FP16]}
    assert weight_files([TORCH, *shards])[""] == shards
    assert weight_files([TORCH, shards[0]])[""] == [TORCH]
    assert weight_files(["model.safetensors", "config.json", "diffusion_flax_model.msgpack"]) == {}


def test_a_missing_shard_and_other_names_are_said(folder: Path) -> None:
    tiny_unet().save_pretrained(folder / "unet", max_shard_size="20KB")
    next((folder / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(UserError, match=r"is missing, and there are no other complete weights.*-00001-of-"):
        load_model(folder)


def test_of_several_variants_one_has_to_be_chosen(folder: Path) -> None:
    for variant in ("fp16", "ema"):
        tiny_unet().save_pretrained(folder / "unet", variant=variant)
    with pytest.raises(UserError, match=r"several variants of the weights \(ema, fp16\)"):
        load_model(folder)


def test_of_several_state_dicts_one_has_to_be_chosen(folder: Path) -> None:
    state = tiny_unet().state_dict()
    torch.save({"model": state, "ema": state}, folder / "unet" / TORCH)
    with pytest.raises(UserError, match=rf"{TORCH}: there are several state dicts in it \(model, ema\)"):
        load_model(folder)


def test_a_moving_average_beside_the_unet_has_to_be_chosen(tmp_path: Path) -> None:
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler(num_train_timesteps=20)), tmp_path / "model")
    unet, average = tmp_path / "model" / "unet", tmp_path / "model" / "unet_ema"
    tiny_unet(seed=1).save_pretrained(average)
    with pytest.raises(UserError, match=f"say which is meant with model.checkpoint={unet} or model.checkpoint={average}"):
        load_model(tmp_path / "model")
    for chosen, seed in ((unet, 0), (average, 1)):
        model = load_model(chosen)
        assert torch.equal(model.unet.conv_in.weight, tiny_unet(seed=seed).conv_in.weight)
        assert model.process.timesteps == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    state = tiny_unet().state_dict()
    state["conv_out.weight"][0, 0, 0, 0] = value
    save_file(state, folder / "unet" / WEIGHTS)
    with pytest.raises(UserError, match=rf"{WEIGHTS}: 1 of \d+ tensors hold NaN or infinite numbers \(conv_out\.weight\)"):
        load_model(folder)


def test_a_folder_that_holds_model_folders_names_one(tmp_path: Path) -> None:
    for name in ("pruned", "finetuned"):
        save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "run" / name)
    with pytest.raises(UserError, match=r"run is not a model folder, but holds 2: give for example .*/run/finetuned"):
        load_model(tmp_path / "run")


def test_weights_in_eight_bits_are_read(folder: Path) -> None:
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in tiny_unet().state_dict().items()},
              folder / "unet" / WEIGHTS)
    weight = load_model(folder).unet.conv_in.weight
    assert torch.equal(weight, tiny_unet().conv_in.weight.to(torch.float8_e4m3fn).float())


def test_a_file_is_said_to_be_one(folder: Path, config) -> None:
    from diffprune.config.validation import check_paths
    from diffprune.stages.options import load_dense
    file = folder.parent / "alone.safetensors"
    save_file(tiny_unet().state_dict(), file)
    cfg = config("model=diffusers", f"model.checkpoint={file}")
    for use in (lambda: check_paths(cfg), lambda: load_dense(cfg), lambda: load_pipeline(file)):
        with pytest.raises(UserError, match=r"alone\.safetensors is a file: give a model folder"):
            use()


def test_plain_diffusers_wrote_the_shards(folder: Path) -> None:
    tiny_unet().save_pretrained(folder / "unet", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert torch.equal(UNet2DModel.from_pretrained(folder / "unet").conv_in.weight, tiny_unet().conv_in.weight)
    assert not (folder / "unet" / WEIGHTS).exists()
    assert load_file(next((folder / "unet").glob("*-00001-of-*.safetensors")))


def test_what_the_library_leaves_when_it_is_killed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes beside the file that it is given, under a name of its own."""
    def killed(tensors: State, path: Path, metadata: dict[str, str] | None = None) -> None:
        path.with_name(".tmpAbC123").write_bytes(b"half")
        shutil.copytree(path.parents[1], tmp_path / "left")     # what lies there at that moment

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(weights, "save_file", killed)
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "run" / "state.safetensors", {"a": torch.zeros(2)})
    assert list((tmp_path / "run").iterdir()) == []
    assert list((tmp_path / "left").rglob(".tmp*"))
    sweep_partials(tmp_path / "left")
    assert list((tmp_path / "left").iterdir()) == []


def test_tensors_are_written_whole_with_a_checksum(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    for content in (torch.arange(6.0).view(2, 3).T, torch.ones(1)):
        write_tensors(file, {"a": content}, {"about": "x"})
        assert torch.equal(load_file(file)["a"], content)
        assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", ".state.safetensors.sha256"}
        assert file.stat().st_mode & 0o444 == 0o444
