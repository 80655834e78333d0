"""The command that scores any images, beside other programs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffprune import measure
from diffprune.errors import UserError
from diffprune.pictures import pictures
from tests.conftest import ROOT

HUB_NAME = "pt_inception-2015-12-05-6726825d.pth"


def images(count: int, seed: int, size: int = 32) -> np.ndarray:
    """Smooth coloured noise, so that features differ from image to image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in coarse])


def folder(path: Path, array: np.ndarray) -> Path:
    path.mkdir()
    for i, image in enumerate(array):
        Image.fromarray(image.squeeze()).save(path / f"{i:04d}.png")
    return path


def measured(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "diffprune.measure", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digits(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


@pytest.mark.slow
def test_the_distance_is_that_of_pytorch_fids_own_command(tmp_path: Path, inception_file: Path) -> None:
    a, b = folder(tmp_path / "a", images(24, 0)), folder(tmp_path / "b", images(24, 1))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(inception_file, checkpoints / HUB_NAME)
    theirs = subprocess.run([sys.executable, "-m", "pytorch_fid", str(a), str(b), "--device", "cpu", "--num-workers", "0"],
                            env=os.environ | {"TORCH_HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    expected = float(re.search(r"FID:\s+([\d.e+-]+)", theirs.stdout)[1])
    found = measured(str(a), str(b), "--weights", str(inception_file), "--kid-subset", "10")
    assert found["fid"] == pytest.approx(expected, rel=1e-4)
    assert (found["images"], found["features"]) == (24, "inception")


@pytest.mark.slow
def test_folders_arrays_and_kept_statistics_give_the_same_distance(tmp_path: Path) -> None:
    a, b = digits(40, 0), digits(50, 1)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    own = ["--features", "digits-cnn"]
    arrays = measured(str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), *own, "--save", str(tmp_path / "a.npz"))
    kept = measured(str(tmp_path / "b.npy"), str(tmp_path / "a.npz"), *own)
    assert kept["fid"] == pytest.approx(arrays["fid"], rel=1e-6)     # covariances of fewer images than features are singular
    assert kept["precision"] == pytest.approx(arrays["recall"])


def test_image_files_are_read_in_path_order_whatever_the_batch(tmp_path: Path) -> None:
    made = images(7, 0, size=8)
    found = pictures(folder(tmp_path / "a", made))
    assert len(found) == 7
    for batch in (3, 7):
        assert np.array_equal(np.concatenate(list(found.chunks(batch))), made)


def test_images_of_two_sizes_are_named(tmp_path: Path) -> None:
    made = folder(tmp_path / "a", images(3, 0, size=8))
    Image.new("RGB", (9, 8)).save(made / "0001.png")
    with pytest.raises(UserError, match=r"0001\.png is 9x8 pixels, the images before it are 8x8"):
        list(pictures(made).chunks(2))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.npy", b"nothing", "no readable array"), ("a.txt", b"text", "holds no images")])
def test_what_holds_no_images_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        pictures(tmp_path / name)


def test_an_array_of_something_else_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.float32))
    with pytest.raises(UserError, match=r"holds float32 \[2, 8, 8\], images are uint8"):
        pictures(tmp_path / "a.npy")


def test_pairs_need_equal_numbers(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 4)):
        np.save(tmp_path / f"{name}.npy", digits(count, 0))
    with pytest.raises(UserError, match=r"a\.npy holds 3 images, .*b\.npy holds 4: leave --pairs out"):
        measure.paired(tmp_path / "a.npy", tmp_path / "b.npy", 2, 7)
    assert measure.paired(tmp_path / "a.npy", tmp_path / "a.npy", 2, 7)["ssim"] == pytest.approx(1, abs=1e-6)
