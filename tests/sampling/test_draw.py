"""Drawing: image i from noise i, exactly N, and going on after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from diffprune.models.model_folder import DiffusionModel
from diffprune.sampling import draw as module
from diffprune.sampling.draw import draw, draw_all, drawing, shared_images, shared_path
from diffprune.sampling.grid import grid
from diffprune.sampling.protocol import plan
from diffprune.sampling.shards import Parts
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


def test_the_memory_format_is_drawn_with_and_has_images_of_its_own(model: DiffusionModel, config) -> None:
    usual, last = config("sampler.steps=3"), config("sampler.steps=3", "memory_format=channels_last")
    images, weight, paths = draw(model, range(4), usual), model.unet.conv_out.weight, [shared_path(model, usual)]
    assert weight.is_contiguous()
    assert np.abs(images.astype(int) - draw(model, range(4), last)).max() <= 1
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert shared_path(model, usual) == paths[0] != shared_path(model, last)


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


def test_two_callers_of_one_path_share_the_work(model: DiffusionModel, config, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("sampler.steps=2", "sampler.batch=2", "evaluate.images=7")
    draw_all(model, cfg, tmp_path / "alone.npy", "test")
    path, drawn = tmp_path / "together.npy", []
    other = drawing(model, cfg, Parts(path, 7, 2, plan(model, cfg)), lambda: None)

    def while_the_other_works(model: DiffusionModel, indices: range, cfg) -> np.ndarray:
        drawn.append(indices.start)
        if indices.start == 0:
            assert [next(other).start for _ in range(2)] == [2, 4]
        return draw(model, indices, cfg)

    shown: list[range] = []
    monkeypatch.setattr(module, "draw", while_the_other_works)
    monkeypatch.setattr(module, "progress", lambda items, what, total, done: (shown.append(part) for part in items))
    draw_all(model, cfg, path, "test")
    assert drawn == [0, 2, 4, 6]
    assert sorted(part.start for part in shown) == [0, 2, 4, 6]     # the other's as well
    assert list(other) == []
    assert np.array_equal(np.load(path), np.load(tmp_path / "alone.npy"))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["alone.npy", "together.npy"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_fixed_share_for_each_process_gives_the_same_set(model: DiffusionModel, config, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    cfg = config("sampler.steps=2", "sampler.batch=2", "evaluate.images=9")
    draw_all(model, cfg, tmp_path / "alone.npy", "test")
    drawn: list[range] = []
    monkeypatch.setattr(module, "draw", lambda m, indices, cfg: (drawn.append(indices), draw(m, indices, cfg))[1])
    for index in reversed(range(processes)):        # process 0 as the last, so that it need not wait
        draw_all(model, cfg, tmp_path / "shares.npy", "test", share=(index, processes))
        assert (tmp_path / "shares.npy").exists() == (index == 0)
    assert sorted(i for part in drawn for i in part) == list(range(9))
    assert np.array_equal(np.load(tmp_path / "shares.npy"), np.load(tmp_path / "alone.npy"))


def test_the_share_that_joins_says_once_what_it_waits_for(model: DiffusionModel, config, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch,
                                                           caplog: pytest.LogCaptureFixture) -> None:
    """Of three processes the second has drawn its parts, the third joins in after a while."""
    caplog.set_level("INFO", "diffprune.sampling.draw")
    monkeypatch.setattr(module, "POLL", 0)
    cfg, looks = config("sampler.steps=2", "sampler.batch=2", "evaluate.images=9"), []

    def attend() -> None:
        looks.append(len(caplog.messages))
        if len(looks) == 8:
            draw_all(model, cfg, tmp_path / "set.npy", "test", share=(2, 3), quiet=True)

    draw_all(model, cfg, tmp_path / "set.npy", "test", share=(1, 3), quiet=True)
    draw_all(model, cfg, tmp_path / "set.npy", "test", share=(0, 3), quiet=True, attend=attend)
    assert caplog.messages == ["this part is drawn, waiting for the others to be drawn: --part 2/3"]
    assert len(looks) >= 8
    assert np.load(tmp_path / "set.npy").shape == (9, 8, 8, 1)


def test_parts_of_another_batch_size_are_not_mixed_in(model: DiffusionModel, config, tmp_path: Path) -> None:
    """The size of a batch decides the last bits of an image."""
    def options(batch: int) -> tuple[str, ...]:
        return "sampler.steps=2", "evaluate.images=6", f"sampler.batch={batch}"

    def stop() -> None:
        if len(parts) == 1:
            raise KeyboardInterrupt
        parts.append(1)

    parts, path = [], tmp_path / "images.npy"
    with pytest.raises(KeyboardInterrupt):
        draw_all(model, config(*options(2)), path, "test", attend=stop)
    assert len(list(tmp_path.glob("images.*.parts/*.npy"))) == 1
    draw_all(model, config(*options(3)), path, "test")
    draw_all(model, config(*options(3)), tmp_path / "whole.npy", "test")
    assert np.array_equal(np.load(path), np.load(tmp_path / "whole.npy"))
    assert not list(tmp_path.glob("*.parts"))


def test_images_do_not_depend_on_the_number_of_threads(model: DiffusionModel, config) -> None:
    used: list[int] = []
    hook = model.unet.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        draw(model, range(2), config("sampler.steps=2"))
        assert (used, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)
        hook.remove()


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
