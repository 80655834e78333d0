"""Data sets: what is read, in which order, and what a step's batch depends on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffprune.data import digits, image_folder
from diffprune.data.loading.images import Images
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_images
from tests import data_sets_on_disk as made


@pytest.fixture
def numbered() -> Images:
    """Ten one-pixel-wide images; image i has the value i."""
    return Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 2, 3).clone(), flip=False)


def values(batch: torch.Tensor) -> list[int]:
    return [round(float(v + 1) * 127.5) for v in batch[:, 0, 0, 0]]


def test_digits_are_the_1797_real_ones_in_full_range() -> None:
    images = digits.load(None, flip=False)
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.dtype == torch.uint8
    assert (int(images.pixels.min()), int(images.pixels.max())) == (0, 255)
    assert len(digits.labels()) == 1797


def test_digits_take_no_path() -> None:
    with pytest.raises(UserError, match="leave it out"):
        digits.load("/somewhere", flip=False)
    with pytest.raises(UserError, match=r"dataset\.resolution=16 does not fit"):
        digits.load(None, flip=False, resolution=16)


def test_every_image_is_seen_once_per_epoch(numbered: Images) -> None:
    seen = [v for step in range(5) for v in values(made.batch(numbered, step, 4, seed=0))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_batch_depends_on_step_and_seed_alone(numbered: Images) -> None:
    assert torch.equal(made.batch(numbered, 7, 4, seed=0), made.batch(numbered, 7, 4, seed=0))
    assert values(made.batch(numbered, 0, 10, seed=0)) != values(made.batch(numbered, 0, 10, seed=1))


def test_a_batch_may_be_larger_than_the_set(numbered: Images) -> None:
    assert sorted(values(made.batch(numbered, 0, 20, seed=0))) == sorted([*range(10)] * 2)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_parts_of_a_batch_are_slices_of_it(world: int) -> None:
    images = Images(torch.arange(30, dtype=torch.uint8).view(10, 1, 1, 3), True, torch.arange(10))
    of_ranks = [list(images.batches(1, 6, 7, 3, (rank, world))) for rank in range(world)]
    for step, shares in enumerate(zip(*of_ranks, strict=True), 1):
        assert torch.equal(torch.cat([pixels for pixels, _ in shares]), made.batch(images, step, 7, 3))
        assert torch.equal(torch.cat([labels for _, labels in shares]), images.labels[images.order.indices(step, 7, 3)])


def test_a_part_may_be_empty(numbered: Images) -> None:
    assert [len(pixels) for rank in range(4) for pixels, _ in numbered.batches(0, 1, 2, 0, (rank, 4))] == [0, 1, 0, 1]


def test_an_epoch_is_shuffled_once(numbered: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, shuffle = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn.append(1) or shuffle(*a, **k))
    assert len(list(numbered.batches(0, 10, 4, 0))) == 10
    assert len(drawn) == 4


def test_chunks_are_the_images_in_order(numbered: Images) -> None:
    assert [chunk[:, 0, 0, 0].tolist() for chunk in numbered.chunks(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [chunk[:, 0, 0, 0].tolist() for chunk in numbered.chunks(2, [7, 1, 5])] == [[7, 1], [5]]
    assert next(numbered.chunks(4)).shape == (4, 2, 3, 1)
    assert list(numbered.chunks(4, [])) == []


def test_moved_images_stay_the_same_set(numbered: Images) -> None:
    moved = numbered.to("cpu")
    assert moved.key == numbered.key
    assert torch.equal(made.batch(moved, 0, 4, 0), made.batch(numbered, 0, 4, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_made_on_a_gpu_are_the_cpus_bit_for_bit() -> None:
    images = Images(torch.arange(256, dtype=torch.uint8).view(64, 1, 1, 4), True, torch.arange(64))
    moved = images.to("cuda")
    assert moved.key == images.key
    for (pixels, labels), (expected, classes) in zip(moved.batches(0, 9, 7, 0), images.batches(0, 9, 7, 0), strict=True):
        assert pixels.device.type == "cuda"
        assert torch.equal(pixels.cpu(), expected)
        assert torch.equal(labels, classes)


def test_flips_mirror_about_half_and_only_where_allowed() -> None:
    ramp = torch.arange(3, dtype=torch.uint8).expand(400, 1, 1, 3).clone()
    flipped = made.batch(Images(ramp, flip=True), 0, 400, seed=0)
    share = float((flipped[:, 0, 0, 0] > flipped[:, 0, 0, 2]).float().mean())
    assert 0.4 < share < 0.6
    straight = made.batch(Images(ramp, flip=False), 0, 400, seed=0)
    assert bool((straight[:, 0, 0, 0] < straight[:, 0, 0, 2]).all())


def test_the_digits_are_never_flipped(config) -> None:
    assert config().dataset.flip is False


def test_calibration_is_a_seeded_subset(numbered: Images) -> None:
    assert values(numbered.calibration(4, 0)) == values(numbered.calibration(10, 0))[:4]
    with pytest.raises(UserError, match=r"calibration_batch=11 .* \(10\)"):
        numbered.calibration(11, 0)


def test_the_key_follows_the_pixels(numbered: Images) -> None:
    other = numbered.pixels.clone()
    other[3, 0, 0, 0] += 1
    assert Images(other, False).key != numbered.key


def test_a_folder_is_read_at_every_depth_in_path_order(tmp_path: Path) -> None:
    for name, value in (("b/deep/x.PNG", 20), ("a.jpg", 10), ("c.webp", 30), ("b/notes.txt", 0)):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            file.write_text("no image")
        else:
            Image.new("RGB", (12, 8), (value, value, value)).save(file)
    images = image_folder.load(str(tmp_path), 8, 3, flip=False)
    assert images.pixels.shape == (3, 3, 8, 8)
    assert images.pixels[:, 0, 4, 4].tolist() == pytest.approx([10, 20, 30], abs=2)


@pytest.mark.parametrize("make", ["missing", "empty", "corrupt"])
def test_a_bad_folder_is_named(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "images"
    if make != "missing":
        folder.mkdir()
    if make == "corrupt":
        (folder / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(UserError, match={"missing": "does not exist", "empty": "no image", "corrupt": "broken.png"}[make]):
        image_folder.load(str(folder), 8, 3, flip=False).calibration(1, 0)


def test_the_stages_of_a_run_read_a_set_once_and_another_set_anew(config) -> None:
    assert load_images(config()) is load_images(config("seed=1"))
    assert load_images(config("dataset.flip=true")) is not load_images(config())
