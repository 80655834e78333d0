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
from diffprune.evaluation.feature_statistics import SUBSET_RULE
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.image_files import open_images
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file
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
    a, b = folder(tmp_path / "a", images(8, 0)), folder(tmp_path / "b", images(8, 1))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(inception_file, checkpoints / HUB_NAME)
    theirs = subprocess.run([sys.executable, "-m", "pytorch_fid", str(a), str(b), "--device", "cpu", "--num-workers", "0"],
                            env=os.environ | {"TORCH_HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    expected = float(re.search(r"FID:\s+([\d.e+-]+)", theirs.stdout)[1])
    found = measured(str(a), str(b), "--weights", str(inception_file), "--kid-subset", "8")
    assert found["fid"] == pytest.approx(expected, rel=1e-4)
    assert (found["images"], found["features"]) == (8, "inception")


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
    found = open_images(folder(tmp_path / "a", made))
    assert len(found) == 7
    for batch in (3, 7):
        assert np.array_equal(np.concatenate(list(found.chunks(batch))), made)


def test_images_of_two_sizes_are_named(tmp_path: Path) -> None:
    made = folder(tmp_path / "a", images(3, 0, size=8))
    Image.new("RGB", (9, 8)).save(made / "0001.png")
    with pytest.raises(UserError, match=r"0001\.png is 9x8 pixels, the first image is 8x8"):
        list(open_images(made).chunks(2))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.npy", b"nothing", "no readable array"), ("a.txt", b"text", "holds no images")])
def test_what_holds_no_images_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        open_images(tmp_path / name)


def test_an_array_of_something_else_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.float32))
    with pytest.raises(UserError, match=r"holds float32 \[2, 8, 8\], images are uint8"):
        open_images(tmp_path / "a.npy")


def test_pairs_need_equal_numbers(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 4)):
        np.save(tmp_path / f"{name}.npy", digits(count, 0))
    with pytest.raises(UserError, match=r"a\.npy holds 3 images, .*b\.npy holds 4: leave --pairs out"):
        measure.paired(tmp_path / "a.npy", tmp_path / "b.npy", 2, 7)
    assert measure.paired(tmp_path / "a.npy", tmp_path / "a.npy", 2, 7)["ssim"] == pytest.approx(1, abs=1e-6)


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(("window", "said"), [
    (11, r"--pairs 11 does not fit images of 8x8 pixels: choose an odd number up to 7"),
    (4, r"--pairs 4 does not fit images of 8x8 pixels: choose an odd number up to 7")])
def test_a_window_that_does_not_fit_is_refused(tmp_path: Path, window: int, said: str) -> None:
    a = saved(tmp_path / "a.npy", digits(3, 0))
    with pytest.raises(UserError, match=said):
        measure.paired(a, a, 2, window)


def test_pairs_need_equal_shapes(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.npy", digits(3, 0))
    for other in (np.zeros((3, 9, 8, 1), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)):
        b = saved(tmp_path / "b.npy", other)
        with pytest.raises(UserError, match=r"a\.npy holds images of shape \[8, 8, 1\], .*b\.npy of .*: leave --pairs out"):
            measure.paired(a, b, 2, 7)


@pytest.mark.parametrize("turned", [False, True])
def test_a_grey_array_pairs_with_the_same_images_as_files(tmp_path: Path, turned: bool) -> None:
    places = saved(tmp_path / "a.npy", digits(3, 0)), folder(tmp_path / "b", digits(3, 0))
    assert measure.paired(*(places[::-1] if turned else places), 2, 7)["rmse"] == 0


def named(path: Path, array: np.ndarray, names: list[str]) -> Path:
    for name, image in zip(names, array, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path / name)
    return path


@pytest.mark.parametrize("name", ["{}.png", "0_{}.png", "rank0/img{}_dense.png", "run1/{:03}.png", "{:02}.bmp"])
def test_numbers_in_names_count_as_numbers(tmp_path: Path, name: str) -> None:
    array, made = saved(tmp_path / "a.npy", digits(12, 0)), digits(12, 0)
    unpadded = named(tmp_path / "b", made, [name.format(i) for i in range(12)])
    padded = named(tmp_path / "c", made, [f"{i:03}.png" for i in range(12)])
    assert measure.paired(array, unpadded, 5, 7)["rmse"] == 0
    assert measure.paired(padded, unpadded, 5, 7)["rmse"] == 0


@pytest.mark.parametrize(("names", "said"), [
    (["0.png", "1.png", "3.png"], r"3\.png breaks the order, and only numbers without a gap"),
    (["0_0.png", "0_1.png", "1_0.png"], r"1_0\.png breaks the order"),
    (["a.png", "b.png", "c.png"], r"a\.png breaks the order"),
    (["1.png", "01.png", "2.png"], r"01\.png and .*1\.png have the same number")])
def test_files_that_do_not_count_an_arrays_images_make_no_pairs(tmp_path: Path, names: list[str], said: str) -> None:
    array, files = saved(tmp_path / "a.npy", digits(3, 0)), named(tmp_path / "b", digits(3, 0), names)
    with pytest.raises(UserError, match=said):
        measure.paired(files, array, 2, 7)


@pytest.mark.parametrize(("others", "alone"), [
    (["dense_0.png", "dense_1.png", "dense_9.png"], "dense_2"), (["a/0.png", "a/1.png", "b/2.png"], "dense_0")])
def test_folders_whose_names_do_not_agree_make_no_pairs(tmp_path: Path, others: list[str], alone: str) -> None:
    one, other = (named(tmp_path / place, digits(3, 0), names) for place, names in (
        ("one", [f"dense_{i}.png" for i in range(3)]), ("other", others)))
    with pytest.raises(UserError, match=rf"{alone}\.png has no partner of its number or name"):
        measure.paired(one, other, 2, 7)
    pruned = named(tmp_path / "pruned", digits(3, 0), [f"pruned_{i:04}.jpeg.png" for i in range(3)])
    assert measure.paired(one, pruned, 2, 7)["rmse"] == 0


def test_grey_files_are_seen_as_the_array_of_their_pixels(tmp_path: Path) -> None:
    extractor = load_extractor("digits-cnn", None)
    array, files = saved(tmp_path / "a.npy", digits(12, 0)), folder(tmp_path / "b", digits(12, 0))
    (one, key), (other, same) = (measure.statistics_of(path, extractor, 5, 100) for path in (array, files))
    assert np.array_equal(one.features, other.features)
    assert key == same
    assert measure.statistics_of(saved(tmp_path / "c.npy", digits(12, 1)), extractor, 5, 100)[1] != key


@pytest.mark.parametrize("count", [0, 1])
def test_a_set_without_a_covariance_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match=rf"a\.npy: there are {count} images, a distance between sets takes at least 2"):
        measure.statistics_of(saved(tmp_path / "a.npy", digits(count, 0)), load_extractor("digits-cnn", None), 4, 100)


def commanded(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["measure", *map(str, arguments), "--features", "digits-cnn"])
    measure.main()


def test_the_numbers_come_with_how_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture) -> None:
    a, b = saved(tmp_path / "a.npy", digits(12, 0)), saved(tmp_path / "b.npy", digits(12, 1))
    commanded(monkeypatch, a, b, "--pairs", 7, "--subset", 10, "--kid-subset", 5, "--neighbours", 2)
    found = json.loads(capsys.readouterr().out)
    expected = {"subset": 10, "subset_rule": SUBSET_RULE, "kid_subset": 5, "neighbours": 2, "ssim_window": 7, "images": 12,
                "reference_key": measure.statistics_of(b, load_extractor("digits-cnn", None), 64, 10)[1]}
    assert {name: found[name] for name in expected} == expected


def test_pairs_are_checked_before_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "statistics_of", lambda *_: pytest.fail("computed in vain"))
    a = saved(tmp_path / "a.npy", digits(12, 0))
    for arguments in ((a, a, "--pairs", 9), (a, "--pairs", 7)):
        with pytest.raises(SystemExit, match="error: --pairs"):
            commanded(monkeypatch, *arguments)


@pytest.mark.parametrize("option", ["--batch", "--subset", "--kid-subset", "--neighbours", "--pairs"])
def test_a_setting_outside_its_range_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
                                              option: str) -> None:
    with pytest.raises(SystemExit):
        commanded(monkeypatch, "a.npy", option, 0)
    assert f"{option}: 0 is outside its range" in capsys.readouterr().err


def test_statistics_are_not_saved_in_the_place_of_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", digits(4, 0))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    done = subprocess.run([sys.executable, "-m", "diffprune.measure", str(tmp_path / "a.npy"), "--features", "digits-cnn",
                           "--save", str(tmp_path / "thesis")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: --save {tmp_path}/thesis is a folder: give a file name ending in .npz\n"
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_damaged_images_of_a_run_are_not_measured(tmp_path: Path) -> None:
    images = Run(tmp_path / "run").images
    with atomic_file(images, checksum=True) as partial, partial.open("wb") as file:
        np.save(file, np.zeros((4, 8, 8, 1), np.uint8))
    assert len(open_images(tmp_path / "run")) == 4
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    with pytest.raises(UserError, match=r"images\.npy differs from its checksum"):
        open_images(tmp_path / "run")
