"""A pruned folder is opened by diffusers alone, through the code that it carries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

import diffprune
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import DiT
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning.allocation import Allocation
from tests.conftest import tiny_unet
from tests.pruning.test_heads import dit

X, T = torch.linspace(-1, 1, 64).view(1, 1, 8, 8), torch.tensor([3])
INPUTS = {"unet2d": (X, T), "condition": (X, T, torch.ones(1, 2, 12)), "dit": (X.expand(1, 4, 8, 8), T, torch.tensor([1]))}

# Run where this package is not importable: opens every folder as a pipeline and as a network, and saves it again.
SCRIPT = """
import sys
sys.modules["diffprune"] = None
from pathlib import Path
import torch
from diffusers import AutoModel, DiffusionPipeline
from safetensors.torch import load_file, save_file
outputs = {}
for folder in sorted(Path("models").iterdir()):
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    inputs = load_file(f"inputs/{folder.name}")
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    alone = AutoModel.from_pretrained(f"{folder}/{part}", trust_remote_code=True)
    networks = {"pipeline": getattr(pipeline, part), "alone": alone}
    for name, network in networks.items():
        assert network.__class__.__module__.startswith("diffusers.models."), type(network)
        with torch.no_grad():
            outputs[f"{folder.name}/{name}"] = network(*(inputs[str(i)] for i in range(len(inputs)))).sample
    pipeline.save_pretrained(f"again/{folder.name}")
try:
    DiffusionPipeline.from_pretrained("models/unet2d")
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise AssertionError("opened without being trusted")
save_file(outputs, "outputs")
"""


def networks() -> dict[str, torch.nn.Module]:
    """A pruned network of each kind; attention of two of them has lost heads."""
    torch.manual_seed(0)
    condition = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, cross_attention_dim=12)
    made = {"unet2d": tiny_unet(), "condition": condition.eval(), "dit": dit(channels=4)}
    for network in made.values():
        diffprune.prune(network, criterion="magnitude", allocation=Allocation(0.5, heads="whole"))
    return made


@pytest.mark.slow
def test_diffusers_opens_pruned_folders_where_this_package_is_absent(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    made = networks()
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4).eval()
    (tmp_path / "inputs").mkdir()
    for name, network in made.items():
        model = DiffusionModel(network, DDIMScheduler(), *([DiT(vae)] if name == "dit" else []))
        save_model(model, tmp_path / "models" / name)
        save_file({str(i): x.contiguous() for i, x in enumerate(INPUTS[name])}, tmp_path / "inputs" / name)
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    outputs = load_file(tmp_path / "outputs")
    assert len(outputs) == 6
    for key, output in outputs.items():
        name = key.split("/")[0]
        with torch.no_grad():
            torch.testing.assert_close(output, made[name](*INPUTS[name]).sample, rtol=1e-5, atol=1e-5)
            again = load_model(tmp_path / "again" / name).unet      # what diffusers has saved
            assert torch.equal(again(*INPUTS[name]).sample, made[name](*INPUTS[name]).sample)


def test_a_dense_folder_carries_no_code(tmp_path: Path) -> None:
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "dense")
    assert not list((tmp_path / "dense").rglob("*.py"))
    assert isinstance(DDIMPipeline.from_pretrained(tmp_path / "dense"), DDIMPipeline)


def test_a_folder_of_before_the_code_is_read_and_saved_with_it(tmp_path: Path) -> None:
    diffprune.prune(unet := tiny_unet(), 0.5, "magnitude")
    save_model(DiffusionModel(unet, DDIMScheduler()), tmp_path / "new")
    save_model(load_model(tmp_path / "new"), tmp_path / "old")
    for file in ("unet/pruned.py", "checksums.sha256"):
        (tmp_path / "old" / file).unlink()
    config = tmp_path / "old" / "unet" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in content.items() if name not in ("_pruned", "auto_map")}))
    save_model(load_model(tmp_path / "old"), tmp_path / "again")
    for name in ("unet/config.json", "unet/pruned.py", "model_index.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


def test_a_pipeline_of_diffusers_keeps_its_kind(tmp_path: Path) -> None:
    pipeline = DDPMPipeline(tiny_unet(), DDIMScheduler())
    diffprune.prune(pipeline, 0.5, "magnitude")
    diffprune.save_pipeline(pipeline, tmp_path / "model")
    opened = DDPMPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(opened.unet) is UNet2DModel
    with torch.no_grad():
        torch.testing.assert_close(opened.unet(X, T).sample, pipeline.unet(X, T).sample, rtol=1e-5, atol=1e-5)
