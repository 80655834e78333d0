"""What decides an entry of the cache is in its key: each thing is changed alone and gives another key."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.config.naming import run_folder
from diffprune.data.digits import load as load_digits
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.reference import data_statistics
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.pruning.scores import Scores
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.stages import evaluate, sample, score
from diffprune.stages.options import dense_model
from diffprune.tracking.tracker import Tracker
from tests.conftest import tiny_unet

Keys = Callable[..., set[Path]]


def save(place: Path, beta_end: float = 0.4, norm_eps: float = 1e-6, seed: int = 0) -> Path:
    unet = tiny_unet((4, 8), seed=seed)
    unet.register_to_config(norm_eps=norm_eps)
    # A folder for each model, since a run keeps to the model that it was started with.
    folder = place.with_name(f"{place.name}-{beta_end}-{norm_eps}-{seed}")
    save_model(DiffusionModel(unet, DDIMScheduler(num_train_timesteps=16, beta_start=1e-3, beta_end=beta_end)), folder)
    return folder


def zeroed(model: DiffusionModel) -> DiffusionModel:
    model.unet.to_empty(device="cpu")
    for tensor in model.unet.state_dict().values():
        tensor.zero_()
    return model


@pytest.fixture
def walks(config, tmp_path: Path) -> Keys:
    """The folders of the scoring passes of a tiny model that its options lead to."""
    def made(*overrides: str, **changes) -> set[Path]:
        cfg = config(f"model.checkpoint={save(tmp_path / 'model', **changes)}", "pruner.calibration_batch=2", "device=cpu",
                     "sampler.steps=2", *overrides)
        score.stage(cfg, Run(run_folder(cfg)), Tracker())
        return set((tmp_path / "cache" / "walks").iterdir())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    "seed=1", "pruner.calibration_batch=3", "precision=bf16", "memory_format=channels_last", "pruner.timesteps_per_pass=4",
    {"beta_end": 0.3}, {"norm_eps": 0.5}, {"seed": 1}], ids=str)
def test_a_scoring_pass_belongs_to_what_decides_its_gradients(walks: Keys, change: str | dict) -> None:
    walks()
    assert len(walks()) == 1
    assert len(walks(change) if isinstance(change, str) else walks(**change)) == 2


@pytest.mark.slow
def test_a_scoring_pass_is_shared_by_criteria_thresholds_and_ratios(walks: Keys) -> None:
    walks()
    for overrides in (["pruner=taylor"], ["pruner.threshold=.5"], ["pruner.ratio=.5"], ["schedule.steps=3"]):
        assert len(walks(*overrides)) == 1


def test_gradients_in_channels_last_are_those_of_the_usual_format_but_for_rounding(config, tmp_path: Path) -> None:
    terms = []
    for memory_format in ("contiguous", "channels_last"):
        cfg = config(f"model.checkpoint={save(tmp_path / 'model')}", "pruner.calibration_batch=2", "device=cpu",
                     f"memory_format={memory_format}", "sampler.steps=2")
        score.stage(cfg, Run(run_folder(cfg)), Tracker())
        terms.append(Scores.read(Run(run_folder(cfg)).scores).terms["wg2"])
    usual, other = (torch.cat([values.flatten() for values in one.values()]) for one in terms)
    assert torch.allclose(usual, other, rtol=1e-3, atol=1e-6 * float(usual.max()))
    assert not torch.equal(usual, other)        # the option is obeyed


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    "sampler.seed=1", "sampler.steps=3", "sampler.batch=3", "evaluate.images=5", "precision=bf16", "sampler.clip=true",
    "sampler.eta=.5", "sampler.spacing=quad", "memory_format=channels_last", {"beta_end": 0.3}, {"norm_eps": 0.5}], ids=str)
def test_the_dense_models_images_belong_to_what_decides_them(config, tmp_path: Path, change: str | dict) -> None:
    changes, overrides = (change, []) if isinstance(change, dict) else ({}, [change])
    counts = []
    for words, of_model in (([], {}), ([], {}), (overrides, changes)):
        cfg = config(f"model.checkpoint={save(tmp_path / 'model', **of_model)}", "schedule=none", "sampler.steps=2",
                     "device=cpu", "evaluate.images=4", "pruner=none", *words)
        run = Run(run_folder(cfg))
        save_model(DiffusionModel(tiny_unet((4, 8)), DDIMScheduler(num_train_timesteps=16)), run.pruned)
        sample.stage(cfg, run, Tracker())
        counts.append(len(list((tmp_path / "cache" / "images").glob("*.npy"))))
    assert counts == [1, 1, 2]


def test_statistics_belong_to_data_features_subset_batch_and_computation(tmp_path: Path, monkeypatch) -> None:
    images, extractor = load_digits(None, flip=False), load_extractor("digits-cnn", None)
    images.pixels = images.pixels[:40]

    def entries(**changes) -> set[Path]:
        options = {"images": images, "name": "digits", "extractor": extractor, "subset": 10, "batch": 20} | changes
        references.append(data_statistics(cache=Cache(tmp_path), **options)[1]["reference_key"])
        return set((tmp_path / "statistics").glob("*.npz"))

    references: list[str] = []
    assert len(entries()) == len(entries()) == 1
    fewer = load_digits(None, flip=False)
    fewer.pixels = fewer.pixels[:39]
    assert len(entries(images=fewer)) == 2
    assert len(entries(subset=11)) == 3
    assert len(entries(batch=7)) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert len(entries()) == 5
    # A number's protocol names the data that it compares with, not how their statistics were rounded.
    assert references[0] == references[1] == references[4] == references[5] != references[2] != references[3]


@pytest.mark.parametrize("change", ["evaluate.batch=3", "evaluate.subset=3"])
def test_statistics_of_drawn_images_belong_to_what_decides_them(config, tmp_path: Path, change: str) -> None:
    extractor, images = load_extractor("digits-cnn", None), np.random.default_rng(0).integers(
        0, 256, (6, 8, 8, 1), dtype=np.uint8)
    for words, drawn, count in (([], images, 1), ([], images, 1), ([change], images, 2), ([], images[::-1], 3)):
        evaluate.statistics(config(*words), extractor, drawn, "dense")
        assert len(list((tmp_path / "cache" / "portraits").glob("*.npz"))) == count


@pytest.mark.slow
@pytest.mark.parametrize("change", ["model.scheduler.beta_end=.005", "model.unet.norm_eps=.5", "model.unet.freq_shift=0"])
def test_a_fetched_model_belongs_to_all_that_its_folder_is_made_of(config, tmp_path: Path, monkeypatch, change: str) -> None:
    from diffprune.models import dense, fetch
    monkeypatch.setattr(fetch, "fetch_file", lambda url, target, *_: target.parent.mkdir(parents=True, exist_ok=True)
                        or target.touch())
    monkeypatch.setattr(dense, "fill_model", lambda model, original: zeroed(model))
    folders = [dense_model(config("model.checkpoint=https://a.b/c.ckpt", *words)).folder("https://a.b/c.ckpt")
               for words in ([], [], [change])]
    assert folders[0] == folders[1] != folders[2]
    assert dense.load_model(folders[2]).key != dense.load_model(folders[0]).key
