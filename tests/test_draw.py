"""Drawing: image i from noise i, exactly N, and going on after a kill."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler
from PIL import Image

from diffprune import draw as module
from diffprune.checkpoint import DiffusionModel
from diffprune.draw import draw, draw_all, grid, shared_images
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


def test_an_image_does_not_depend_on_its_batch(model: DiffusionModel, config) -> None:
    cfg = config("sampler.steps=3")
    together, alone = draw(model, range(6), cfg), draw(model, range(4, 6), cfg)
    assert together.shape == (6, 8, 8, 1)
    assert np.abs(together[4:].astype(int) - alone).max() <= 1
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("count", [1, 4, 7])
def test_exactly_as_many_images_as_asked(model: DiffusionModel, config, tmp_path: Path, count: int) -> None:
    cfg = config("sampler.steps=2", "sampler.batch=4", f"evaluate.images={count}")
    draw_all(model, cfg, tmp_path / "images.npy", "test")
    assert np.load(tmp_path / "images.npy").shape == (count, 8, 8, 1)
    assert [f.name for f in tmp_path.iterdir()] == ["images.npy"]


def test_a_killed_call_goes_on_without_drawing_a_batch_twice(model: DiffusionModel, config, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("sampler.steps=2", "sampler.batch=4", "evaluate.images=10")
    draw_all(model, cfg, tmp_path / "whole.npy", "test")
    drawn: list[range] = []

    def interrupted(model: DiffusionModel, indices: range, cfg) -> np.ndarray:
        if len(drawn) == 2:
            drawn.append(indices)
            raise KeyboardInterrupt
        drawn.append(indices)
        return draw(model, indices, cfg)

    monkeypatch.setattr(module, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_all(model, cfg, tmp_path / "parts.npy", "test")
    assert not (tmp_path / "parts.npy").exists()
    draw_all(model, cfg, tmp_path / "parts.npy", "test")
    assert [r.start for r in drawn] == [0, 4, 8, 8]
    assert np.array_equal(np.load(tmp_path / "parts.npy"), np.load(tmp_path / "whole.npy"))


def test_shared_images_are_drawn_once_per_model_and_sampler(model: DiffusionModel, config,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[range] = []
    monkeypatch.setattr(module, "draw", lambda m, indices, cfg: (calls.append(indices), draw(m, indices, cfg))[1])
    small = ("sampler.steps=2", "evaluate.images=3")
    first = shared_images(model, config(*small), "test")
    assert np.array_equal(first, shared_images(model, config(*small, "sampler.batch=2"), "test"))
    assert len(calls) == 1
    shared_images(model, config(*small, "sampler.seed=1"), "test")
    shared_images(DiffusionModel(tiny_unet(seed=1), model.scheduler), config(*small), "test")
    assert len(calls) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_one_row_per_model(tmp_path: Path, channels: int) -> None:
    rows = [np.full((5, 8, 8, channels), value, dtype=np.uint8) for value in (0, 100)]
    grid(rows, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    assert picture.shape == (2 * 9 + 1, 5 * 9 + 1)
    assert picture[4, 4] == 0
    assert picture[13, 40] == 100
