"""Bad data: one sentence that names the file, or a deterministic substitute and a list of what was left out."""

import builtins
import logging
import multiprocessing
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffprune.data import cifar10, image_folder, imagenet, lsun
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.streamed import Skipped
from diffprune.runtime.errors import UserError
from tests import data_sets_on_disk as made

STREAMED = {"memory_gb": 0}


def in_folder(root: Path, bad: tuple[int, ...], **options: object) -> ImageSet:
    for value in bad:
        file = root / f"class_{value // 4}" / f"{value:03d}.png"
        file.write_bytes(file.read_bytes()[:-150])
    images = image_folder.load(str(root), 8, 3, flip=True, **options)
    if "memory_gb" not in options:
        assert images.skipped == {}     # nothing is decoded before its use
        images.take(torch.tensor([0]))
    return images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of three classes, four each."""
    return made.folder(tmp_path / "images", size=(8, 8))


def numbers(images: ImageSet) -> list[int]:
    return [int(value) for chunk in images.chunks(5) for value in chunk[:, 0, 0, 0]]


def test_a_corrupt_image_in_the_middle_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"class_1/006\.png is not a readable image: .*\(dataset\.on_error=skip leaves"):
        in_folder(folder, (6,))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named_when_it_is_streamed(folder: Path, workers: int) -> None:
    images = in_folder(folder, (6,), workers=workers, **STREAMED)
    with pytest.raises(UserError) as caught:
        list(images.batches(0, 3, 4, 0))
    assert str(caught.value).startswith(f"{folder}/class_1/006.png is not a readable image")
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()        # although the error still refers to where it arose


@pytest.mark.parametrize("options", [{}, STREAMED, {"workers": 2, **STREAMED}], ids=["memory", "streamed", "workers"])
def test_the_next_good_image_stands_in_for_a_skipped_one(folder: Path, options: dict) -> None:
    images = in_folder(folder, (3, 6, 11), on_error="skip", **options)
    assert numbers(images) == [0, 1, 2, 4, 4, 5, 7, 7, 8, 9, 10, 0]
    assert [Path(name).name for name in images.skipped] == ["003.png", "006.png", "011.png"]
    assert set(images.skipped.values()) == {"is not a readable image: remove it or copy it again"}
    for step, (pixels, labels) in enumerate(images.batches(0, 5, 5, 1)):
        assert torch.equal(pixels, made.batch(images, step, 5, 1))
        assert torch.equal(labels, images.take(images.order.indices(step, 5, 1))[1])
    held = image_folder.load(str(folder), 8, 3, flip=True, on_error="skip")
    assert torch.equal(made.batch(images, 3, 7, 2), made.batch(held, 3, 7, 2))
    assert torch.equal(images.calibration_labels(12, 2), held.calibration_labels(12, 2))
    assert sorted(held.calibration_labels(12, 2).tolist()) == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert images.key == held.key


def test_nothing_is_skipped_where_nothing_is_bad(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert in_folder(folder, (), on_error="skip").skipped == {}
    assert "left out" not in caplog.text


def test_what_was_skipped_is_counted_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_folder(folder, (2, 3), on_error="skip")
    assert caplog.messages == [f"2 images are left out as unusable, the next good one stands in: {folder}/class_0/002.png, "
                               f"{folder}/class_0/003.png"]


def test_many_skipped_images_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    skipped = Skipped()
    for index in range(40):
        skipped.add({index: (f"{index:02d}.png", "is too dark")})
    assert len(caplog.messages) == 12       # the first ten, then at 20 and at 40
    assert caplog.messages[-1].endswith(f"{', '.join(list(skipped.reasons)[:10])} and 30 more")
    skipped.add({3: ("03.png", "is too dark")})
    assert (len(skipped.reasons), len(caplog.messages)) == (40, 12)


@pytest.mark.parametrize("options", [{}, STREAMED])
def test_a_set_of_which_nothing_can_be_used_is_refused(folder: Path, options: dict) -> None:
    with pytest.raises(UserError, match="none of the 12 images can be used"):
        in_folder(folder, tuple(range(12)), on_error="skip", **options).calibration(4, 0)


@pytest.mark.parametrize("name", ["image_folder", "lsun", "imagenet"])
def test_an_empty_folder_is_named(tmp_path: Path, name: str) -> None:
    load: dict[str, Callable] = {"image_folder": lambda path: image_folder.load(path, 8, 3, False),
                                 "lsun": lambda path: lsun.load(path, "lsun_church", 8, False),
                                 "imagenet": lambda path: imagenet.load(path, 8, False)}
    with pytest.raises(UserError, match=rf"dataset\.path={tmp_path} holds no image"):
        load[name](str(tmp_path))
    with pytest.raises(UserError, match=r"dataset\.path=/no/such/place does not exist"):
        load[name]("/no/such/place")


def test_a_file_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def denied(path: Path, *rest: str) -> object:
        if str(path).endswith("005.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest)

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(UserError, match=r"005\.png cannot be read \(Permission denied\)"):
        in_folder(folder, ())
    assert numbers(in_folder(folder, (), on_error="skip"))[5] == 6


def test_a_folder_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def denied(path: str) -> object:
        if path.endswith("class_1"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"the folder .*class_1 cannot be listed \(Permission denied\)"):
        in_folder(folder, ())


def test_a_file_that_vanishes_while_training_is_named(folder: Path) -> None:
    images = in_folder(folder, (), **STREAMED)
    key = images.key
    (folder / "class_2" / "009.png").unlink()
    with pytest.raises(UserError, match=r"009\.png cannot be read \(No such file or directory\)"):
        list(images.chunks(4))
    assert in_folder(folder, (), **STREAMED).key != key


# Parquet

def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    made.table(tmp_path / "train-00000.parquet", 5, "img", size=(32, 32))
    file = made.table(tmp_path / "train-00001.parquet", 5, "img", size=(32, 32))
    file.write_bytes(file.read_bytes()[:-40])
    for load in (lambda: cifar10.load(str(tmp_path), flip=True), lambda: imagenet.load(str(tmp_path), 8, flip=True)):
        with pytest.raises(UserError, match=r"train-00001\.parquet cannot be read as images in Parquet"):
            load()


@pytest.mark.parametrize("options", [{}, {"workers": 2, **STREAMED}], ids=["memory", "streamed"])
def test_a_parquet_file_with_damage_inside_is_named(tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = made.table(tmp_path / "images" / "train-00000.parquet", 50, label=None)
    content = bytearray(file.read_bytes())
    content[4:800] = bytes(796)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"images(/train-00000\.parquet)? (cannot be read|cannot be copied)"):
        list(imagenet.load(str(file), 8, flip=True, **options).chunks(4))


def test_a_corrupt_or_missing_image_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    data = [made.png(0), made.png(1), None, b"no image"]
    parquet.write_table(pa.table({"image": pa.array(data, pa.binary())}), tmp_path / "train.parquet", row_group_size=3)
    with pytest.raises(UserError, match=r"train\.parquet, row 2 cannot be read \(there is no image\)"):
        imagenet.load(str(tmp_path), 8, flip=True).calibration(2, 0)
    images = imagenet.load(str(tmp_path), 8, flip=True, on_error="skip")
    images.calibration(2, 0)
    assert list(images.skipped) == [f"{tmp_path}/train.parquet, row 2", f"{tmp_path}/train.parquet, row 3"]


def test_a_parquet_file_without_images_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    made.table(tmp_path / "train.parquet", 3, image="text")
    with pytest.raises(UserError, match=r"train\.parquet has no column image or img"):
        imagenet.load(str(tmp_path), 8, flip=True)
    for column in (pa.array([[1, 2, 3]]), pa.array([{"path": "a.png"}]), pa.array(["a.png"])):
        parquet.write_table(pa.table({"image": column}), tmp_path / "train.parquet")
        with pytest.raises(UserError, match=r"train\.parquet has .* in its column image, images are encoded files"):
            imagenet.load(str(tmp_path), 8, flip=True)
    made.table(tmp_path / "train.parquet", 0)
    with pytest.raises(UserError, match=r"train\.parquet holds no image"):
        imagenet.load(str(tmp_path), 8, flip=True)


# zip

def test_a_truncated_archive_is_named(folder: Path, tmp_path: Path) -> None:
    archive = made.archive(tmp_path / "images.zip", folder)
    archive.write_bytes(archive.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"images\.zip cannot be read as a zip archive .* copy it again"):
        image_folder.load(str(archive), 8, 3, flip=True)


def test_a_damaged_member_is_named(folder: Path, tmp_path: Path) -> None:
    archive = made.archive(tmp_path / "images.zip", folder)
    with zipfile.ZipFile(archive) as packed:
        start = packed.getinfo("class_1/005.png").header_offset
    content = bytearray(archive.read_bytes())
    content[start + 120:start + 130] = bytes(10)
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"images\.zip/class_1/005\.png cannot be read"):
        image_folder.load(str(archive), 8, 3, flip=True).calibration(2, 0)
    images = image_folder.load(str(archive), 8, 3, flip=True, on_error="skip")
    images.calibration(2, 0)
    assert list(images.skipped) == [f"{archive}/class_1/005.png"]


def test_an_archive_without_images_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("readme.txt", "no image")
    with pytest.raises(UserError, match=r"images\.zip holds no image"):
        image_folder.load(str(tmp_path / "images.zip"), 8, 3, flip=True)


# lmdb

@pytest.mark.parametrize("kept", [0, 100, 4096, 20_000])
def test_a_truncated_database_is_named(tmp_path: Path, kept: int) -> None:
    path = made.database(tmp_path / "bedroom_train_lmdb", size=(40, 40))
    (path / "data.mdb").write_bytes((path / "data.mdb").read_bytes()[:kept])
    with pytest.raises(UserError, match=r"bedroom_train_lmdb cannot be read as an LMDB database .* copy it again"):
        lsun.load(str(path), "lsun_bedroom", 8, flip=True)


def test_an_empty_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image"):
        lsun.load(str(made.database(tmp_path / "db", count=0)), "lsun_bedroom", 8, flip=True)


def test_a_corrupt_value_is_named_by_its_key(tmp_path: Path) -> None:
    import lmdb
    path = made.database(tmp_path / "db", size=(8, 8))
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.put(f"{4:040x}".encode(), b"no image")
    with pytest.raises(UserError, match=rf"db, key {4:040x} is not a readable image"):
        lsun.load(str(path), "lsun_bedroom", 8, flip=True).calibration(2, 0)
    images = lsun.load(str(path), "lsun_bedroom", 8, flip=True, on_error="skip")
    assert numbers(images)[3:6] == [3, 5, 5]


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
