"""The command `python -m diffprune.convert`: files it reads, what it writes, and one sentence for each mistake."""

import json
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffprune.api.folders import load_pipeline
from diffprune.convert import main
from diffprune.models.formats.compvis import build
from diffprune.models.formats.read import LIGHTNING_KEY, read_model
from diffprune.models.model_folder import load_model
from diffprune.runtime.errors import UserError
from tests.models.test_formats_compvis import SMALL, original_yaml, shapes_of
from tests.models.test_formats_ddim import original_shapes, random_state


@pytest.fixture(scope="module")
def ddim():
    return random_state(original_shapes(mult=(1, 2), layers=1))


@pytest.fixture(scope="module")
def compvis():
    return random_state(shapes_of(build(SMALL, None)))


@pytest.fixture
def original(ddim, tmp_path):
    save_file(ddim, tmp_path / "original.safetensors")
    return tmp_path / "original.safetensors"


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL))
    return file


def failure(*arguments):
    """The sentence with which the command ends; it exits non-zero and shows no traceback."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def same(module, other):
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in module.state_dict().items())


def test_a_converted_ddim_checkpoint_is_a_model_folder(original, ddim, tmp_path, capsys):
    main([str(original), str(tmp_path / "out"), "--resolution", "16"])
    model = load_model(tmp_path / "out")
    assert same(read_model(original, resolution=16).unet, model.unet)
    assert torch.equal(model.unet.conv_in.weight, ddim["conv_in.weight"])
    assert model.shape == (3, 16, 16)
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: UNet2DModel, 0.7 M parameters, 3x16x16\n"


def test_a_converted_compvis_checkpoint_is_a_model_folder(compvis, settings, tmp_path):
    torch.save({"state_dict": compvis}, tmp_path / "model.ckpt")
    main([str(tmp_path / "model.ckpt"), str(tmp_path / "out"), "--config", str(settings)])
    model, direct = load_model(tmp_path / "out"), read_model(tmp_path / "model.ckpt", config=settings)
    assert same(direct.unet, model.unet)
    assert same(direct.family.vqvae, model.family.vqvae)
    assert same(direct.family.class_embedder, model.family.class_embedder)
    pipeline = load_pipeline(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline([0, 3], num_inference_steps=2, output_type="np").images.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_torch_files_are_read(ddim, tmp_path, suffix):
    torch.save(ddim, tmp_path / f"original{suffix}")
    assert torch.equal(read_model(tmp_path / f"original{suffix}", resolution=16).unet.conv_in.weight, ddim["conv_in.weight"])


def test_a_file_of_old_torch_is_read(ddim, tmp_path):
    torch.save(ddim, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_model(tmp_path / "old.pt", resolution=16).unet.conv_in.weight, ddim["conv_in.weight"])


def test_the_weights_asked_for_are_converted(ddim, tmp_path):
    torch.save([ddim, {}, 1, 2, {key: tensor + 1 for key, tensor in ddim.items()}], tmp_path / "ckpt.pth")
    main([str(tmp_path / "ckpt.pth"), str(tmp_path / "out"), "--resolution", "16", "--weights", "ema"])
    assert torch.equal(load_model(tmp_path / "out").unet.conv_in.weight, ddim["conv_in.weight"] + 1)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_the_original_yaml_is_read(compvis, tmp_path, suffix):
    from omegaconf import OmegaConf
    config = original_yaml(SMALL, image_size="${model.params.unet_config.params.image_size}")
    OmegaConf.save(OmegaConf.create(config), tmp_path / f"config{suffix}")
    save_file(compvis, tmp_path / "model.safetensors")
    assert read_model(tmp_path / "model.safetensors", config=tmp_path / f"config{suffix}").shape == (3, 8, 8)


def lightning_class(monkeypatch):
    """Lightning's class, importable only while the test writes its file."""
    import types
    module, name = LIGHTNING_KEY.rsplit(".", 1)
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    stand_in = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, stand_in)
    return stand_in


def test_a_lightning_file_is_read_without_lightning(compvis, settings, tmp_path, monkeypatch):
    with monkeypatch.context() as importable:
        torch.save({"state_dict": compvis, "callbacks": {lightning_class(importable): {"best": torch.tensor(0.1)}}},
                   tmp_path / "last.ckpt")
    assert read_model(tmp_path / "last.ckpt", config=settings).shape == (3, 8, 8)


def test_foreign_classes_are_refused_by_name(ddim, original, tmp_path):
    torch.save({**ddim, "extra": Fraction(1, 3)}, tmp_path / "foreign.pt")
    sentence = failure(tmp_path / "foreign.pt", tmp_path / "out", "--resolution", 16)
    assert "foreign.pt holds objects besides tensors (fractions.Fraction)" in sentence
    assert "with safetensors" in sentence


class Burglar:
    def __reduce__(self):
        return (Path.touch, (Path("burgled"),))


def test_no_code_of_a_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Burglar()))
    assert "evil.pt" in failure("evil.pt", "out", "--resolution", 16)
    assert not (tmp_path / "burgled").exists()
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path):
    assert "absent.pt is not a file" in failure(tmp_path / "absent.pt", tmp_path / "out")


def test_a_folder_is_no_checkpoint(tmp_path):
    assert "is not a file" in failure(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors", "bad.ckpt"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(40), bytes(64), b"\x80\x02}q\x00."],
                         ids=["empty", "page", "zip", "zeros", "cut"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    sentence = failure(tmp_path / name, tmp_path / "out", "--resolution", 16)
    assert name in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_a_file_is_refused(ddim, tmp_path, suffix):
    file = tmp_path / f"half{suffix}"
    save_file(ddim, file) if suffix == ".safetensors" else torch.save(ddim, file)
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    assert "no checkpoint or is damaged" in failure(file, tmp_path / "out", "--resolution", 16)


def test_keys_of_neither_format_are_refused(tmp_path):
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    sentence = failure(tmp_path / "other.safetensors", tmp_path / "out")
    assert "other.safetensors: its keys are neither" in sentence
    assert "--format" in sentence


def test_diffusers_own_keys_are_said_to_be_that(tmp_path):
    save_file({"conv_in.weight": torch.zeros(2), "down_blocks.0.resnets.0.conv1.weight": torch.zeros(2)},
              tmp_path / "other.safetensors")
    assert "its keys are diffusers' own" in failure(tmp_path / "other.safetensors", tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(ddim, tmp_path, value):
    state = {key: tensor.clone() for key, tensor in ddim.items()}
    state["conv_in.bias"][0] = value
    save_file(state, tmp_path / "bad.safetensors")
    sentence = failure(tmp_path / "bad.safetensors", tmp_path / "out", "--resolution", 16)
    assert "hold NaN or infinite numbers (conv_in.bias)" in sentence


def test_a_format_that_was_chosen_is_not_guessed(tmp_path):
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "no UNet of the DDIM code base" in failure(tmp_path / "other.safetensors", tmp_path / "out", "--format", "ddim",
                                                      "--resolution", 16)


def test_a_ddim_checkpoint_asks_for_the_resolution(original, tmp_path):
    assert "original.safetensors: no shape tells" in failure(original, tmp_path / "out")


def test_keys_that_do_not_fit_leave_nothing_behind(ddim, tmp_path):
    save_file({**ddim, "other": torch.zeros(1)}, tmp_path / "original.safetensors")
    assert "other is unknown" in failure(tmp_path / "original.safetensors", tmp_path / "out", "--resolution", 16)
    assert [path.name for path in tmp_path.iterdir()] == ["original.safetensors"]


def test_options_of_the_other_format_are_refused(original, compvis, settings, tmp_path):
    save_file(compvis, tmp_path / "latent.safetensors")
    assert "--config has no meaning for the ddim format" in failure(
        original, tmp_path / "out", "--resolution", 16, "--config", settings)
    assert "--resolution has no meaning for the compvis format" in failure(
        tmp_path / "latent.safetensors", tmp_path / "out", "--resolution", 16, "--config", settings)


def test_a_compvis_checkpoint_asks_for_its_config(compvis, tmp_path):
    save_file(compvis, tmp_path / "latent.safetensors")
    assert "give its YAML with --config" in failure(tmp_path / "latent.safetensors", tmp_path / "out")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("absent.yaml", None, "cannot be read"),
    ("config.txt", "a: 1", "neither YAML nor JSON"),
    ("config.yaml", "a: [1", "not valid YAML"),
    ("config.yaml", "a: ${b}", "not valid YAML"),
    ("config.yaml", "!!python/object/apply:os.system [ls]", "not valid YAML"),
    ("config.yaml", "", "no section unet_config"),
    ("config.yaml", "- 1", "holds no mapping"),
    ("config.json", "{", "not valid JSON"),
    ("config.json", "[1]", "holds no mapping"),
    ("config.json", b"\xff\xfe", "not valid JSON"),
])
def test_a_config_that_cannot_be_read_is_named(compvis, tmp_path, name, content, message):
    save_file(compvis, tmp_path / "latent.safetensors")
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in failure(tmp_path / "latent.safetensors", tmp_path / "out", "--config", tmp_path / name)


def test_a_folder_that_is_not_empty_is_kept(original, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "not empty, give another folder or add --overwrite" in failure(original, tmp_path / "out", "--resolution", 16)
    assert "holds more than a model folder" in failure(original, tmp_path / "out", "--resolution", 16, "--overwrite")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(original, tmp_path):
    (tmp_path / "out").mkdir()
    main([str(original), str(tmp_path / "out"), "--resolution", "16"])
    assert load_model(tmp_path / "out").shape == (3, 16, 16)


def test_overwrite_replaces_a_model_folder(original, tmp_path):
    main([str(original), str(tmp_path / "out"), "--resolution", "16"])
    assert "not empty" in failure(original, tmp_path / "out", "--resolution", 32)
    main([str(original), str(tmp_path / "out"), "--resolution", "32", "--overwrite"])
    assert load_model(tmp_path / "out").shape == (3, 32, 32)


def test_overwrite_never_deletes_the_original(original, ddim, tmp_path):
    main([str(original), str(tmp_path / "out"), "--resolution", "16"])
    inside = original.rename(tmp_path / "out" / "original.safetensors")
    assert "--overwrite would delete" in failure(inside, tmp_path / "out", "--resolution", 16, "--overwrite")
    assert inside.exists()


def test_a_file_is_no_folder_to_write(original, tmp_path):
    assert "is a file, give a folder" in failure(original, original, "--resolution", 16)


def test_help_needs_no_torch():
    code = "import sys\nfrom diffprune.convert import parser\nparser().format_help()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_mistake_on_the_command_line_ends_it_with_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, "-m", "diffprune.convert", tmp_path / "absent.pt", tmp_path / "out"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'absent.pt'} is not a file, give the checkpoint to convert\n"


def test_errors_in_python_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        read_model(tmp_path / "absent.pt")
