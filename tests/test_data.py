"""Data sets: what is read, in which order, and what a step's batch depends on."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffprune.data import celeba, cifar10, digits, image_folder
from diffprune.data.images import Images
from diffprune.errors import UserError


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


def test_every_image_is_seen_once_per_epoch(numbered: Images) -> None:
    seen = [v for step in range(5) for v in values(numbered.batch(step, 4, seed=0))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_batch_depends_on_step_and_seed_alone(numbered: Images) -> None:
    assert torch.equal(numbered.batch(7, 4, seed=0), numbered.batch(7, 4, seed=0))
    assert values(numbered.batch(0, 10, seed=0)) != values(numbered.batch(0, 10, seed=1))


def test_a_batch_may_be_larger_than_the_set(numbered: Images) -> None:
    assert sorted(values(numbered.batch(0, 20, seed=0))) == sorted([*range(10)] * 2)


def test_flips_mirror_about_half_and_only_where_allowed() -> None:
    ramp = torch.arange(3, dtype=torch.uint8).expand(400, 1, 1, 3).clone()
    flipped = Images(ramp, flip=True).batch(0, 400, seed=0)
    share = float((flipped[:, 0, 0, 0] > flipped[:, 0, 0, 2]).float().mean())
    assert 0.4 < share < 0.6
    straight = Images(ramp, flip=False).batch(0, 400, seed=0)
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
        image_folder.load(str(folder), 8, 3, flip=False)


def parquet(folder: Path, count: int) -> None:
    from datasets import Dataset
    rng, rows = np.random.default_rng(0), []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, format="PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    from datasets import Features, Value
    from datasets import Image as ImageFeature
    features = Features({"img": ImageFeature(), "label": Value("int64")})
    folder.mkdir(parents=True)
    Dataset.from_dict({"img": rows, "label": [0] * count}, features=features).to_parquet(folder / "train-00000.parquet")


def test_cifar10_is_read_from_a_local_parquet_folder(tmp_path: Path) -> None:
    parquet(tmp_path / "data", 5)
    images = cifar10.load(str(tmp_path), flip=True)
    assert images.pixels.shape == (5, 3, 32, 32)
    expected = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(images.pixels[0].permute(1, 2, 0).numpy(), expected)


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "data", 5)
    file = tmp_path / "data" / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"train-00000\.parquet cannot be read"):
        cifar10.load(str(tmp_path), flip=True)


def test_a_folder_without_cifar10_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no train"):
        cifar10.load(str(tmp_path), flip=True)


@pytest.mark.slow
def test_the_real_cifar10_has_fifty_thousand_images(shared: Path) -> None:
    images = cifar10.load(str(shared / "data" / "cifar10"), flip=True)
    assert images.pixels.shape == (50_000, 3, 32, 32)


def aligned(folder: Path, name: str, size: tuple[int, int] = (178, 218)) -> None:
    """A black photograph with a white face of 128x128 pixels, centred at (x 89, y 121)."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (25, 57, 153, 185))
    image.save(folder / name)


def test_celebas_faces_are_cut_out(tmp_path: Path) -> None:
    aligned(tmp_path, "000001.png")
    pixels = celeba.load(str(tmp_path), 64, flip=True).pixels
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels.min() == 255


def test_celebas_training_split_is_the_first_images_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba, "TRAINING", 2)
    for name in ("000003.png", "000001.png", "000002.png"):
        aligned(tmp_path, name)
    assert len(celeba.load(str(tmp_path), 64, flip=True)) == 2


def test_photographs_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    aligned(tmp_path, "000001.png", (409, 687))
    with pytest.raises(UserError, match=r"000001\.png is 409x687 pixels, .* give the folder img_align_celeba"):
        celeba.load(str(tmp_path), 64, flip=True)
