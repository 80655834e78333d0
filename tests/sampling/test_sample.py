"""The sample stage: several processes, kills, other machines; always the same images."""

import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler
from omegaconf import DictConfig, OmegaConf

from diffprune.config.naming import masked, run_folder
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.runs.run import Run
from diffprune.runs.samples import Samples
from diffprune.runtime.errors import UserError
from diffprune.sampling import draw
from diffprune.sampling.__main__ import main
from diffprune.stages import sample
from diffprune.stages.options import cache, drawing, execution
from diffprune.tracking.tracker import Tracker
from tests.conftest import ROOT, tiny_unet

IMAGES, BATCH = 46, 4


@pytest.fixture
def prepared(config, tmp_path: Path) -> tuple[DictConfig, Run]:
    """A run whose model is pruned and not trained, so that one set of images is to be drawn."""
    cfg = config("model.checkpoint=null", "schedule=none", "sampler.steps=3", f"sampler.batch={BATCH}", "device=cpu",
                 f"evaluate.images={IMAGES}")
    run = Run(run_folder(cfg))
    run.open(OmegaConf.to_yaml(masked(cfg), resolve=True))
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), run.pruned)
    return cfg, run


def complete(cfg: DictConfig, folder: Path) -> np.ndarray:
    """The images as one call in this process draws them."""
    draw.draw_all(DiffusionModel(tiny_unet(), DDIMScheduler()), drawing(cfg), folder / "complete.npy", "test")
    return np.load(folder / "complete.npy")


def joining(run: Run) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "diffprune.sampling", run.folder], cwd=ROOT,
                            stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_one_process_starts_no_other(prepared: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, run = prepared
    monkeypatch.setattr("diffprune.sampling.workers.Workers.start",
                        lambda self: pytest.fail("started") if self.count else None)
    sample.stage(cfg, run, Tracker())
    assert np.load(run.images).shape == (IMAGES, 8, 8, 1)
    assert {file.name for file in run.samples.iterdir()} == {
        "images.npy", "grid.png", "samples.json", ".images.npy.sha256", ".samples.json.sha256"}


def test_a_model_left_whole_is_drawn_once(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images are the dense model's, to which every other run is compared; another model's are its own."""
    drawn = []
    monkeypatch.setattr(sample, "draw_all", lambda model, plan, path, what, **how: drawn.append(what) or draw.draw_all(
        model, plan, path, what, **how))
    dense = DiffusionModel(tiny_unet(), DDIMScheduler())
    save_model(dense, tmp_path / "dense")
    for seed, expected in ((0, ["dense model"]), (1, ["dense model", "final model"])):
        cfg = config(f"model.checkpoint={tmp_path}/dense", "schedule=none", "sampler.steps=3", "device=cpu",
                     "evaluate.images=6", f"seed={seed}")
        run = Run(run_folder(cfg))
        run.open(OmegaConf.to_yaml(masked(cfg), resolve=True))
        save_model(DiffusionModel(tiny_unet(seed=seed), DDIMScheduler()), run.pruned)
        sample.stage(cfg, run, Tracker())
        images = np.load(Samples.read(run).files(run, cache(cfg))["dense"])
        assert drawn == expected
        assert np.array_equal(np.load(run.images), images) == (seed == 0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_draw_the_same_set(prepared: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             processes: int) -> None:
    cfg, run = prepared
    expected = complete(cfg, tmp_path)
    cfg.sampler.processes = processes
    monkeypatch.setattr(draw, "draw_one", lambda *_: False)     # all is left to the others
    sample.stage(cfg, run, Tracker())
    assert np.array_equal(np.load(run.images), expected)
    assert {file.name for file in run.samples.iterdir()} == {
        "images.npy", "grid.png", "samples.json", ".images.npy.sha256", ".samples.json.sha256"}


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_stage_and_repeating_goes_on(prepared: tuple, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, run = prepared
    expected = complete(cfg, tmp_path)
    cfg.sampler.processes = 2
    drawn: list[range] = []
    others = set(active_children())     # what earlier tests left behind

    def after_a_kill(model: DiffusionModel, indices: range, *how: object) -> np.ndarray:
        drawn.append(indices)
        if len(drawn) == 3:
            (worker,) = set(active_children()) - others
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        return original(model, indices, *how)

    original = draw.draw
    monkeypatch.setattr(draw, "draw", after_a_kill)
    with pytest.raises(UserError, match=r"ended with status -9: repeat the command"):
        sample.stage(cfg, run, Tracker())
    assert not run.images.exists()
    cfg.sampler.processes = 1
    sample.stage(cfg, run, Tracker())
    assert np.array_equal(np.load(run.images), expected)
    assert len({shard.start for shard in drawn}) == len(drawn)    # nothing twice


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_repeat_nothing(prepared: tuple, tmp_path: Path) -> None:
    cfg, run = prepared
    expected, moments = complete(cfg, tmp_path), random.Random(0)
    kept: dict[str, int] = {}
    for _ in range(3):
        process = joining(run)
        wanted = len(kept) + moments.randint(1, 3)
        while len(written(run)) < wanted and process.poll() is None:
            time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.wait()
        assert not run.images.exists(), "it was over before the kill"
        parts = written(run)
        assert kept.items() <= parts.items()        # what was there was not drawn again
        kept = parts
    assert joining(run).wait() == 0
    assert np.array_equal(np.load(run.images), expected)
    assert sorted(file.name for file in run.samples.iterdir()) == [".images.npy.sha256", "images.npy"]


def written(run: Run) -> dict[str, int]:
    """{part: when it was written}"""
    return {file.name: file.stat().st_mtime_ns for file in run.samples.glob("*.shards/*-*.npy")}


@pytest.mark.slow
def test_processes_of_other_machines_join_in(prepared: tuple, tmp_path: Path) -> None:
    cfg, run = prepared
    expected = complete(cfg, tmp_path)
    processes = [joining(run) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert np.array_equal(np.load(run.images), expected)
    assert sorted(file.name for file in run.samples.iterdir()) == [".images.npy.sha256", "images.npy"]


def test_joining_in_needs_a_run_with_a_model(prepared: tuple, tmp_path: Path) -> None:
    _, run = prepared
    run.pruned.rename(tmp_path / "elsewhere")
    for folder, words in ((tmp_path, "is no run folder"), (run.folder, "has no model pruned/ yet")):
        with pytest.raises(SystemExit) as end:
            main([str(folder)])
        assert str(end.value).startswith("error: ")
        assert words in str(end.value)


def test_without_a_number_there_is_a_process_for_every_core_and_at_most_eight(config, monkeypatch) -> None:
    how = execution(config("device=cpu"))
    for cores, expected in ((3, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert how.process_count(None) == expected
    assert how.process_count(5) == 5


def test_a_mistake_that_a_helping_process_meets_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise UserError("the model draws images that are NaN")
    monkeypatch.setattr(sample, "draw_sets", fails)
    monkeypatch.setattr(sample, "execution", lambda cfg: Execution())
    with pytest.raises(SystemExit, match=r"^error: the model draws images that are NaN$"):
        sample.join_in(1, {}, tmp_path)
