"""The command `python -m diffprune.export`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import diffprune
from diffprune import export
from diffprune.export import LARGEST_DIFFERENCE, Denoiser, inputs_of, main
from diffprune.models.model_folder import load_model
from tests.conftest import tiny_unet

ABSENT = "the extra export is not installed: pip install 'diffprune[export]'"
SCHEDULER = DDIMScheduler(num_train_timesteps=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    diffprune.prune(unet := tiny_unet(), 0.5, "magnitude")
    diffprune.save_pipeline(unet, tmp_path / "model", SCHEDULER)
    return tmp_path / "model"


@torch.no_grad()
def expected(folder: Path, batch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    unet = load_model(folder).unet
    inputs = inputs_of(unet, batch, 7)
    return inputs, Denoiser(unet, list(inputs))(*inputs.values())


@pytest.mark.slow
def test_a_pruned_network_in_torch_exports_format_predicts_the_same(folder: Path, capsys: pytest.CaptureFixture) -> None:
    main([str(folder), "--to", "torch", "--batch", "3"])
    said = json.loads((folder / "export" / "denoiser.pt2.json").read_text())
    assert said["difference"] <= LARGEST_DIFFERENCE
    assert min(said["milliseconds"], said["milliseconds_eager"]) > 0
    assert "in PyTorch" in capsys.readouterr().out
    inputs, prediction = expected(folder, 3)
    network = torch.export.load(folder / "export" / "denoiser.pt2").module()
    torch.testing.assert_close(network(*inputs.values()), prediction, rtol=0, atol=LARGEST_DIFFERENCE)
    assert load_model(folder)       # as before


@pytest.mark.slow
def test_a_pruned_network_in_onnx_predicts_the_same(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=ABSENT)
    main([str(folder), "--to", "onnx", "--batch", "2"])
    said = json.loads((folder / "export" / "denoiser.onnx.json").read_text())
    assert said["inputs"] == {"sample": [2, 1, 8, 8], "timestep": [2]}
    assert said["difference"] <= LARGEST_DIFFERENCE
    inputs, prediction = expected(folder, 2)
    session = onnxruntime.InferenceSession(folder / "export" / "denoiser.onnx")
    (output,) = session.run(["prediction"], {name: value.numpy() for name, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(output), prediction, rtol=0, atol=LARGEST_DIFFERENCE)


@pytest.mark.slow
def test_a_conditional_network_takes_its_context(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=ABSENT)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, cross_attention_dim=12).eval()
    diffprune.prune(unet, 0.5, "magnitude")
    exported = export.export(unet, 10, "onnx", 1, tmp_path)
    assert exported.inputs["encoder_hidden_states"] == [1, 1, 12]
    assert exported.difference <= LARGEST_DIFFERENCE


def test_a_file_that_predicts_something_else_is_refused_and_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(denoiser, inputs, file: Path):
        file.write_bytes(b"a network")
        return lambda inputs: denoiser(*inputs.values()) + 2 * LARGEST_DIFFERENCE
    monkeypatch.setattr(export, "to_torch", wrong)
    with pytest.raises(SystemExit, match=r"predictions differ from the network's by 0\.0002"):
        main([str(folder), "--to", "torch"])
    assert list((folder / "export").iterdir()) == []


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", sys)
    with pytest.raises(SystemExit, match=r"onnxruntime is not installed: pip install 'diffprune\[export\]'"):
        main([str(folder), "--to", "onnx"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere", "--to", "torch"], "nowhere is no folder"), (["FOLDER", "--to", "torch", "--batch", "0"], "--batch 0")])
def test_a_mistake_is_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([str(folder) if word == "FOLDER" else word for word in arguments])
