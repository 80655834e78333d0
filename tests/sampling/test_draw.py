"""Drawing: image i from noise i, exactly N, and going on after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import ASSETS, load_model
from diffprune.runtime.errors import UserError
from diffprune.sampling import draw as module
from diffprune.sampling.draw import draw, draw_all, draw_shards
from diffprune.sampling.grid import grid
from diffprune.sampling.protocol import Drawing, SamplerOptions
from diffprune.sampling.shards import Shards
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


def test_an_image_does_not_depend_on_its_batch(model: DiffusionModel) -> None:
    together, alone = draw(model, range(6), SamplerOptions(3)), draw(model, range(4, 6), SamplerOptions(3))
    assert together.shape == (6, 8, 8, 1)
    assert np.abs(together[4:].astype(int) - alone).max() <= 1
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("layer", ["conv_in", "conv_out"])
def test_images_that_are_not_finite_never_become_bytes(model: DiffusionModel, layer: str) -> None:
    model.unet.get_submodule(layer).weight.data *= 1e38
    with pytest.raises(UserError, match="draws images that are NaN or infinite with precision=fp32"):
        draw(model, range(2), SamplerOptions(3))


def test_latents_that_are_not_finite_are_not_decoded(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.family), "decode", lambda self, latents: torch.zeros_like(latents))
    model.unet.conv_in.weight.data *= 1e38
    with pytest.raises(UserError, match="NaN or infinite"):
        draw(model, range(2), SamplerOptions(3))


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_another_batch_agrees_to_the_tolerance_that_the_readme_states(monkeypatch: pytest.MonkeyPatch, eta: float) -> None:
    shipped, options = load_model(ASSETS / "ddpm_digits"), SamplerOptions(20, eta=eta)

    def drawn(size: int) -> np.ndarray:
        return np.concatenate([draw(shipped, range(i, min(i + size, 28)), options) for i in range(0, 28, size)])

    for size in (1, 7):
        assert np.abs(drawn(size).astype(int) - drawn(28)).max() <= 1
        assert (drawn(size) != drawn(28)).mean() <= 1e-3
    assert np.array_equal(drawn(7), drawn(7))
    monkeypatch.setattr(module, "to_uint8", lambda images: images)
    for size in (1, 7):
        assert np.abs(drawn(size) - drawn(28)).max() <= 5e-5


def test_the_memory_format_is_drawn_with_and_has_images_of_its_own(model: DiffusionModel) -> None:
    usual, last = (Drawing(4, SamplerOptions(3), execution=Execution(memory_format=name))
                   for name in ("contiguous", "channels_last"))
    images, weight, key = draw(model, range(4), usual.options, usual.execution), model.unet.conv_out.weight, usual.key(model)
    assert weight.is_contiguous()
    assert np.abs(images.astype(int) - draw(model, range(4), last.options, last.execution)).max() <= 1
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert usual.key(model) == key != last.key(model)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_exactly_as_many_images_as_asked(model: DiffusionModel, tmp_path: Path, count: int) -> None:
    draw_all(model, Drawing(count, SamplerOptions(2), 4), tmp_path / "images.npy", "test")
    assert np.load(tmp_path / "images.npy").shape == (count, 8, 8, 1)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".images.npy.sha256", "images.npy"]


def test_a_killed_call_goes_on_without_drawing_a_batch_twice(model: DiffusionModel, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(10, SamplerOptions(2), 4)
    draw_all(model, drawing, tmp_path / "complete.npy", "test")
    drawn: list[range] = []

    def interrupted(model: DiffusionModel, indices: range, *how) -> np.ndarray:
        if len(drawn) == 2:
            drawn.append(indices)
            raise KeyboardInterrupt
        drawn.append(indices)
        return draw(model, indices, *how)

    monkeypatch.setattr(module, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_all(model, drawing, tmp_path / "shards.npy", "test")
    assert not (tmp_path / "shards.npy").exists()
    draw_all(model, drawing, tmp_path / "shards.npy", "test")
    assert [r.start for r in drawn] == [0, 4, 8, 8]
    assert np.array_equal(np.load(tmp_path / "shards.npy"), np.load(tmp_path / "complete.npy"))


def test_two_callers_of_one_path_share_the_work(model: DiffusionModel, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(7, SamplerOptions(2), 2)
    draw_all(model, drawing, tmp_path / "alone.npy", "test")
    path, drawn = tmp_path / "together.npy", []
    other = draw_shards(model, drawing, Shards(path, 7, 2, drawing.key(model) | {"device": "cpu"}), lambda: None)

    def while_the_other_works(model: DiffusionModel, indices: range, *how) -> np.ndarray:
        drawn.append(indices.start)
        if indices.start == 0:
            assert [next(other).start for _ in range(2)] == [2, 4]
        return draw(model, indices, *how)

    shown: list[range] = []
    monkeypatch.setattr(module, "draw", while_the_other_works)
    monkeypatch.setattr(module, "progress", lambda items, what, total, done: (shown.append(shard) for shard in items))
    draw_all(model, drawing, path, "test")
    assert drawn == [0, 2, 4, 6]
    assert sorted(shard.start for shard in shown) == [0, 2, 4, 6]     # the other's as well
    assert list(other) == []
    assert np.array_equal(np.load(path), np.load(tmp_path / "alone.npy"))
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        ".alone.npy.sha256", ".together.npy.sha256", "alone.npy", "together.npy"]


def test_shards_of_another_batch_size_are_not_mixed_in(model: DiffusionModel, tmp_path: Path) -> None:
    """The size of a batch decides the last bits of an image."""
    def stop() -> None:
        if len(drawn) == 1:
            raise KeyboardInterrupt
        drawn.append(1)

    drawn, path, three = [], tmp_path / "images.npy", Drawing(6, SamplerOptions(2), 3)
    with pytest.raises(KeyboardInterrupt):
        draw_all(model, Drawing(6, SamplerOptions(2), 2), path, "test", attend=stop)
    assert len(list(tmp_path.glob("images.*.shards/*.npy"))) == 1
    draw_all(model, three, path, "test")
    draw_all(model, three, tmp_path / "complete.npy", "test")
    assert np.array_equal(np.load(path), np.load(tmp_path / "complete.npy"))
    assert not list(tmp_path.glob("*.shards"))


def test_images_do_not_depend_on_the_number_of_threads(model: DiffusionModel) -> None:
    used: list[int] = []
    hook = model.unet.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        draw(model, range(2), SamplerOptions(2))
        assert (used, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)
        hook.remove()


def test_the_key_holds_the_model_and_the_sampler(model: DiffusionModel) -> None:
    """A batch of another size rounds differently, so that its images are others too."""
    key = Drawing(3, SamplerOptions(2)).key(model)
    assert key == Drawing(3, SamplerOptions(2)).key(DiffusionModel(tiny_unet(), model.scheduler))
    others = [Drawing(3, SamplerOptions(2, seed=1)).key(model), Drawing(4, SamplerOptions(2)).key(model),
              Drawing(3, SamplerOptions(2), batch=2).key(model),
              Drawing(3, SamplerOptions(2), execution=Execution(precision="bf16")).key(model),
              Drawing(3, SamplerOptions(2)).key(DiffusionModel(tiny_unet(seed=1), model.scheduler))]
    assert key not in others


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_one_row_per_model(tmp_path: Path, channels: int) -> None:
    rows = [np.full((5, 8, 8, channels), value, dtype=np.uint8) for value in (0, 100)]
    grid(rows, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    assert picture.shape == (2 * 9 + 1, 5 * 9 + 1)
    assert picture[4, 4] == 0
    assert picture[13, 40] == 100
