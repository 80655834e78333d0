"""What is held out of a data set, and what is left to train on."""

from pathlib import Path

import pytest
import torch

from diffprune.config.naming import run_name
from diffprune.data import image_folder
from diffprune.data.loading.images import Images
from diffprune.data.loading.split import split
from diffprune.data.loading.streamed import StreamedImages
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_images, parts
from tests import data_sets_on_disk as made
from tests.conftest import tuned
from tests.data.test_streamed import folder

PIXELS = torch.arange(50 * 4, dtype=torch.uint8).view(50, 1, 2, 2)


@pytest.mark.parametrize("count", [1, 7, 25, 49])
def test_the_parts_are_disjoint_whole_and_evenly_spaced(count: int) -> None:
    training, held_out = split(Images(PIXELS, False), count)
    assert held_out is not None
    assert (len(training), len(held_out)) == (50 - count, count)
    assert sorted([*training.places.tolist(), *held_out.places.tolist()]) == list(range(50))
    gaps = held_out.places.diff()
    assert count == 1 or gaps.max() - gaps.min() <= 1
    assert torch.equal(held_out.take(torch.arange(count))[0], PIXELS[held_out.places])


def test_without_any_the_set_is_itself() -> None:
    images = Images(PIXELS, False)
    assert split(images, 0) == (images, None)


def test_a_set_that_would_be_held_out_whole_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.held_out=50 leaves nothing of the data set's 50 images"):
        split(Images(PIXELS, False), 50)


def test_labels_and_keys_are_those_of_the_part() -> None:
    whole = Images(PIXELS, True, torch.arange(50))
    training, held_out = split(whole, 10)
    assert held_out is not None
    assert torch.equal(training.labels, training.places)
    assert training.flip
    assert len({whole.key, training.key, held_out.key, split(whole, 11)[0].key}) == 4
    pixels, labels = next(iter(training.batches(0, 1, 8, 0)))
    assert (pixels.shape, len(labels)) == ((8, 1, 2, 2), 8)
    assert set(labels.tolist()) <= set(training.places.tolist())


def test_a_streamed_set_gives_the_same_part(tmp_path: Path) -> None:
    held, streamed = folder(tmp_path), folder(tmp_path, memory_gb=0, workers=2)
    assert isinstance(streamed, StreamedImages)
    for one, other in zip(split(streamed, 1), split(held, 1), strict=True):
        assert one is not None
        assert other is not None
        assert one.key == other.key
        for (a, _), (b, _) in zip(one.batches(0, 4, 3, 0), other.batches(0, 4, 3, 0), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(one.calibration(1, 0), other.calibration(1, 0))


@pytest.mark.parametrize("options", [{}, {"memory_gb": 0}, {"memory_gb": 0, "workers": 2}])
def test_the_class_of_an_image_that_replaces_a_bad_one_is_its_own(tmp_path: Path, options: dict) -> None:
    """Each class is that of its folder of four, and an image's value is its number."""
    root = made.folder(tmp_path / "images", size=(8, 8))
    for number in (2, 7):       # 3 and 8 replace them, the second of another class
        file = root / f"class_{number // 4}" / f"{number:03d}.png"
        file.write_bytes(file.read_bytes()[:-150])
    training, _ = split(image_folder.load(str(root), 8, 3, flip=False, on_error="skip", **options), 2)
    shown = ((training.calibration(10, 0)[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert 8 in shown.tolist()
    assert torch.equal(training.calibration_labels(10, 0), shown // 4)


def test_the_digits_hold_out_a_sixth_and_other_data_sets_nothing(config) -> None:
    training, held_out = parts(tuned(), load_images(tuned()))
    assert held_out is not None
    assert (len(training), len(held_out)) == (1500, 297)
    assert parts(tuned("dataset.held_out=0"), training)[1] is None
    others = (("cifar10", "ddpm_cifar10"), ("celeba", "ddpm_celeba"), ("lsun_church", "ddpm_lsun_church"))
    assert [config(f"dataset={name}", f"model={model}").dataset.held_out for name, model in others] == [0, 0, 0]
    assert run_name(tuned("dataset.held_out=0")) != run_name(tuned())
