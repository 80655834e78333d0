"""`diffprune.load_pipeline` and `diffprune.save_pipeline`."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

import diffprune
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.runtime.errors import UserError
from tests.conftest import tiny_unet

SCHEDULER = DDIMScheduler(num_train_timesteps=10)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("kind", [DDIMPipeline, DDPMPipeline])
def test_a_pruned_pipeline_is_saved_as_it_is(kind: type, tmp_path: Path) -> None:
    pipeline = kind(tiny_unet(), DDPMScheduler(num_train_timesteps=10))
    diffprune.prune(pipeline, 0.5, "magnitude")
    diffprune.save_pipeline(pipeline, tmp_path / "model")
    assert f'"{kind.__name__}"' in (tmp_path / "model" / "model_index.json").read_text()
    assert equal(pipeline.unet, diffprune.load_pipeline(tmp_path / "model").unet)


def test_a_network_is_saved_with_its_schedule(tmp_path: Path) -> None:
    diffprune.save_pipeline(unet := tiny_unet(), tmp_path / "model", SCHEDULER)
    loaded = diffprune.load_pipeline(tmp_path / "model")
    assert equal(unet, loaded.unet)
    assert loaded.scheduler.config.num_train_timesteps == 10


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.txt is not as this project wrote it"):
        diffprune.save_pipeline(tiny_unet(), tmp_path, SCHEDULER)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def run_folder(folder: Path, steps: int, *models: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"schedule: {{steps: {steps}}}\n")
    for seed, name in enumerate(models):
        save_model(DiffusionModel(tiny_unet(seed=seed), SCHEDULER), folder / name)
    return folder


def test_a_runs_folder_gives_its_final_model(tmp_path: Path) -> None:
    trained = run_folder(tmp_path / "trained", 5, "pruned", "finetuned")
    assert equal(diffprune.load_pipeline(trained).unet, diffprune.load_pipeline(trained / "finetuned").unet)
    untrained = run_folder(tmp_path / "untrained", 0, "pruned")
    assert equal(diffprune.load_pipeline(untrained).unet, tiny_unet(seed=0))


def test_a_run_that_is_not_finished_gives_no_model_silently(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no finetuned/: repeat the run's command, or give .*pruned"):
        diffprune.load_pipeline(run_folder(tmp_path / "run", 5, "pruned"))


def test_a_name_of_the_hub_is_fetched_where_no_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(DiffusionModel(unet := tiny_unet(seed=3), SCHEDULER), tmp_path / "cached")
    fetched = {"someone/pruned-ddpm": tmp_path / "cached"}
    monkeypatch.setattr("diffprune.api.folders.fetch_repository", lambda name, origin: fetched[name])
    assert equal(diffprune.load_pipeline("someone/pruned-ddpm").unet, unet)
    with pytest.raises(UserError, match="does not exist"):
        diffprune.load_pipeline(tmp_path / "nowhere")


def test_a_shipped_model_needs_no_folder() -> None:
    assert diffprune.load_pipeline("shipped:ddpm_digits").unet.config.sample_size == 8
