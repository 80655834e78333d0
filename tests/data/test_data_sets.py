"""Every data set in the layouts that people have, its transform pixel by pixel, and its classes."""

import io
import pickle
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from diffprune.data import celeba, cifar10, image_folder, imagenet, lsun
from diffprune.data.loading.decoding import BadImage, converted, decoded
from diffprune.data.loading.images import Images, ImageSet
from diffprune.data.loading.transforms import Face, ShorterSide
from diffprune.data.sources import cifar10_batches
from diffprune.runtime.errors import UserError
from tests import data_sets_on_disk as made

TRAINING = {"000001.jpg": 0, "000002.jpg": 1, "000003.jpg": 0, "000004.jpg": 2}


def red(images: Images) -> list[int]:
    """The first pixel's red value of every image: its number in `made`, where nothing is cut off."""
    return images.pixels[:, 0, 0, 0].tolist()


# CIFAR-10

def rows(count: int = 10, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count).tolist()


def python_batch(seed: int) -> bytes:
    pixels, labels = rows(seed=seed)
    content = {"batch_label": f"training batch {seed}", "labels": labels, "data": pixels, "filenames": ["a.png"] * 10}
    return pickle.dumps(content, protocol=2)


def binary_batch(seed: int) -> bytes:
    pixels, labels = rows(seed=seed)
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


BATCHES = {"cifar-10-batches-py": (python_batch, ""), "cifar-10-batches-bin": (binary_batch, ".bin")}


@pytest.fixture
def ten_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of CIFAR-10 have ten images instead of 10 000."""
    monkeypatch.setattr(cifar10_batches, "IMAGES", 10)


def cifar_batches(root: Path, name: str, packed: bool) -> Path:
    make, suffix = BATCHES[name]
    folder = root / name
    folder.mkdir()
    for seed in (2, 1, 5, 3, 4):
        (folder / f"data_batch_{seed}{suffix}").write_bytes(make(seed))
    (folder / f"test_batch{suffix}").write_bytes(make(6))
    (folder / "batches.meta").write_bytes(b"anything")
    if not packed:
        return folder
    with tarfile.open(root / "cifar-10.tar.gz", "w:gz") as archive:
        archive.add(folder, name)
    return root / "cifar-10.tar.gz"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.usefixtures("ten_images")
def test_cifar10_is_read_from_its_authors_batches(tmp_path: Path, name: str, packed: bool) -> None:
    place = str(cifar_batches(tmp_path, name, packed))
    images, test = cifar10.load(place, flip=True), cifar10.load(place, flip=True, split="test")
    expected, labels = zip(*map(rows, [10] * 5, range(1, 6)), strict=True)
    assert np.array_equal(images.pixels.numpy(), np.concatenate(expected).reshape(-1, 3, 32, 32))
    assert images.labels.tolist() == [label for batch in labels for label in batch]
    assert np.array_equal(test.pixels.numpy(), rows(seed=6)[0].reshape(-1, 3, 32, 32))
    assert packed or cifar10.load(str(tmp_path), flip=True).key == images.key


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.usefixtures("ten_images")
def test_a_cifar10_that_is_not_its_five_batches_is_refused(tmp_path: Path, name: str) -> None:
    folder, (make, suffix) = cifar_batches(tmp_path, name, packed=False), BATCHES[name]
    key = cifar10.load(str(folder), flip=True).key
    (folder / f"data_batch_1 (copy){suffix}").write_bytes(make(1))
    (folder / f"data_batch_2{suffix}.bak").write_bytes(make(2))
    assert cifar10.load(str(folder), flip=True).key == key
    (folder / f"data_batch_5{suffix}").write_bytes(make(2))
    with pytest.raises(UserError, match=rf"data_batch_5{suffix} is a copy of another batch"):
        cifar10.load(str(folder), flip=True)
    (folder / f"data_batch_5{suffix}").write_bytes(make(5) if suffix == "" else make(5) + make(7))
    (folder / f"data_batch_3{suffix}").unlink()
    with pytest.raises(UserError, match=rf"{name} lacks data_batch_3{suffix}: copy CIFAR-10 again"):
        cifar10.load(str(folder), flip=True)


def test_a_batch_of_another_length_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(binary_batch(1))
    with pytest.raises(UserError, match=r"test_batch\.bin holds 10 images, a batch of CIFAR-10 has 10000"):
        cifar10.load(str(tmp_path), flip=True, split="test")


@pytest.mark.usefixtures("ten_images")
def test_both_formats_in_one_folder_are_not_two_data_sets(tmp_path: Path) -> None:
    for seed in range(1, 6):
        (tmp_path / f"data_batch_{seed}").write_bytes(python_batch(seed))
        (tmp_path / f"data_batch_{seed}.bin").write_bytes(binary_batch(seed))
    assert len(cifar10.load(str(tmp_path), flip=True)) == 50


@pytest.mark.usefixtures("ten_images")
def test_an_array_of_todays_numpy_is_read_too(tmp_path: Path) -> None:
    pixels, labels = rows()
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=3))
    assert np.array_equal(cifar10.load(str(tmp_path), flip=True, split="test").pixels.numpy().reshape(10, -1), pixels)


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        import os
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_executes_nothing(tmp_path: Path, protocol: int) -> None:
    pixels, labels = rows()
    content = {"labels": labels, "data": pixels, "more": Malicious(tmp_path / "mark")}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=r"test_batch would import (posix mkdir|something), .* do not trust it"):
        cifar10.load(str(tmp_path), flip=True, split="test")
    assert not (tmp_path / "mark").exists()
    pickle.loads((tmp_path / "test_batch").read_bytes())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [b"no pickle", pickle.dumps([1, 2]), python_batch(1)[:-2000], b""])
@pytest.mark.parametrize("name", ["test_batch", "test_batch.bin"])
def test_what_is_no_batch_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is no (whole )?batch of CIFAR-10.* copy it again"):
        cifar10.load(str(tmp_path), flip=True, split="test")


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = cifar_batches(tmp_path, "cifar-10-batches-py", packed=True)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cifar-10\.tar\.gz cannot be read .* copy it again"):
        cifar10.load(str(archive), flip=True)


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "labels"), ("image", None)])
def test_cifar10_is_read_from_parquet(tmp_path: Path, image: str, label: str | None) -> None:
    made.table(tmp_path / "data" / "train-00001-of-2.parquet", 4, image, label, (32, 32), first=7)
    made.table(tmp_path / "data" / "train-00000-of-2.parquet", 7, image, label, (32, 32))
    images = cifar10.load(str(tmp_path), flip=True)
    assert red(images) == list(range(11))
    assert np.array_equal(images.pixels[8].permute(1, 2, 0).numpy(), np.asarray(made.picture(8, (32, 32))))
    assert label is None or images.labels.tolist() == [value % 3 for value in range(11)]


def test_cifar10_is_read_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config) -> None:
    import datasets

    from diffprune.config.validation import check_paths
    file = made.table(tmp_path / "train.parquet", 4, "img", "label", (32, 32))
    asked = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
        return datasets.Dataset.from_parquet(str(file), features=features, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    local = cifar10.load(str(tmp_path), flip=True)
    assert cifar10.load(None, flip=True).key == cifar10.load("someone/cifar10", flip=True).key == local.key
    assert asked == [("uoft-cs/cifar10", "train"), ("someone/cifar10", "train")]
    check_paths(config("dataset=cifar10", "dataset.path=someone/cifar10"))
    with pytest.raises(UserError, match="someone/faces does not exist"):
        check_paths(config("dataset=celeba", "model.checkpoint=null", "dataset.path=someone/faces"))


def test_cifar100_is_not_cifar10(tmp_path: Path) -> None:
    made.table(tmp_path / "train.parquet", 4, "img", "fine_label", (32, 32))
    with pytest.raises(UserError, match=r"train\.parquet holds CIFAR-100"):
        cifar10.load(str(tmp_path), flip=True)


def test_images_of_another_size_are_not_cifar10(tmp_path: Path) -> None:
    made.table(tmp_path / "train.parquet", 3, "img", "label", (28, 32))
    with pytest.raises(UserError, match=r"train\.parquet, row 0 is 28x32 pixels, not 32x32"):
        cifar10.load(str(tmp_path), flip=True).calibration(1, 0)
    with pytest.raises(UserError, match=r"dataset\.resolution=64 does not fit CIFAR-10"):
        cifar10.load(str(tmp_path), flip=True, resolution=64)


def test_a_folder_without_cifar10_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train\*\.parquet and no batches"):
        cifar10.load(str(tmp_path), flip=True)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_small_jpegs_are_decoded_as_pillow_does(tmp_path: Path, mode: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    data = [saved(made.picture(i, (32, 32)).convert(mode), "JPEG", quality=75) for i in range(5)]
    parquet.write_table(pa.table({"img": data}), tmp_path / "train.parquet")
    pixels = cifar10.load(str(tmp_path), flip=True).pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, np.stack([np.asarray(decoded(one, 3)) for one in data]))
    parquet.write_table(pa.table({"img": [*data, data[0][:-100]]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet, row 5 is not a readable image"):
        cifar10.load(str(tmp_path), flip=True).calibration(1, 0)


@pytest.mark.slow
def test_the_real_cifar10_is_what_datasets_reads(shared: Path) -> None:
    from datasets import load_dataset
    folder = shared / "data" / "cifar10"
    images, rows = cifar10.load(str(folder), flip=True), load_dataset(str(folder), split="train")
    assert images.pixels.shape == (50_000, 3, 32, 32)
    assert torch.equal(images.labels.bincount(), torch.full((10,), 5000))
    for index in range(0, 50_000, 500):
        assert np.array_equal(images.pixels[index].permute(1, 2, 0).numpy(), np.asarray(rows[index]["img"]))
    assert len(cifar10.load(str(folder), flip=True, split="test")) == 10_000


# CelebA

def test_a_face_is_rows_57_to_184_and_columns_25_to_152() -> None:
    y, x = np.mgrid[:218, :178].astype(np.uint8)
    face = Face(128)(Image.fromarray(np.stack([x, y, x ^ y], -1)))
    expected_y, expected_x = np.mgrid[57:185, 25:153]
    assert np.array_equal(face, np.stack([expected_x, expected_y, expected_x ^ expected_y], -1))


def test_a_face_is_resized_by_weighing_four_pixels() -> None:
    """Halving with a bilinear filter: weights 1, 3, 3, 1 (of 8) around each new pixel."""
    columns = np.random.default_rng(0).integers(0, 256, 178)
    photograph = np.broadcast_to(columns.astype(np.uint8)[None, :, None], (218, 178, 3))
    face = Face(64)(Image.fromarray(np.ascontiguousarray(photograph)))
    cut = columns[25:153]
    expected = [(cut[2 * i - 1] + 3 * cut[2 * i] + 3 * cut[2 * i + 1] + cut[2 * i + 2]) / 8 for i in range(1, 63)]
    assert np.abs(face[30, 1:63, 0] - np.array(expected)).max() <= 0.51


def load_celeba(path: Path, **options: object) -> Images:
    return celeba.load(str(path), 128, flip=True, **options)


def test_celeba_is_partition_0_whichever_layout(tmp_path: Path) -> None:
    photographs = made.celeba(tmp_path / "faces", TRAINING)
    images = load_celeba(photographs)
    for place, value in enumerate((0, 2)):
        expected = np.asarray(made.picture(value, (178, 218)))[57:185, 25:153]
        assert np.array_equal(images.pixels[place].permute(1, 2, 0).numpy(), expected)
    packed = tmp_path / "packed"
    packed.mkdir()
    archive = made.archive(packed / "img_align_celeba.zip", tmp_path / "faces")
    (packed / "Eval").mkdir()
    (packed / "Eval" / "list_eval_partition.csv").write_text(
        "image_id,partition\n" + "".join(f"{name},{part}\n" for name, part in TRAINING.items()))
    twice = tmp_path / "twice" / "img_align_celeba"
    made.celeba(twice, TRAINING)
    (twice / "list_eval_partition.txt").rename(twice.parent / "list_eval_partition.txt")
    for place in (tmp_path / "faces", packed, archive, twice, twice.parent):
        assert torch.equal(load_celeba(place).pixels, images.pixels)


def test_celeba_without_its_partition_file_is_refused(tmp_path: Path) -> None:
    photographs = made.celeba(tmp_path, TRAINING)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"img_align_celeba has no list_eval_partition\.txt beside or above it: copy it"):
        load_celeba(photographs)


@pytest.mark.parametrize("content", ["", "000001.jpg 1\n", "no partition at all\n"])
def test_a_partition_file_without_training_images_is_named(tmp_path: Path, content: str) -> None:
    photographs = made.celeba(tmp_path, TRAINING)
    (tmp_path / "list_eval_partition.txt").write_text(content)
    with pytest.raises(UserError, match=r"list_eval_partition\.txt names no training image"):
        load_celeba(photographs)


def test_a_partition_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    photographs = made.celeba(tmp_path, TRAINING)
    listing = tmp_path / "list_eval_partition.txt"
    listing.write_bytes(b"\xef\xbb\xbf" + listing.read_bytes())
    assert len(load_celeba(photographs)) == 2


def test_an_incomplete_celeba_is_refused_before_it_is_read(tmp_path: Path) -> None:
    photographs = made.celeba(tmp_path, TRAINING)
    (photographs / "000003.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 2 training images, the first is 000003\.jpg"):
        load_celeba(photographs)


def test_photographs_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    photographs = made.celeba(tmp_path, {"000001.jpg": 0}, (409, 687))
    with pytest.raises(UserError, match=r"000001\.jpg is 409x687 pixels, .* give the folder img_align_celeba"):
        load_celeba(photographs).calibration(1, 0)


# LSUN

def test_the_longer_side_follows_and_its_middle_is_kept() -> None:
    """20x16 pixels become 10x8 by weights 1, 3, 3, 1 (of 8), of which columns 1 to 8 stay."""
    columns = np.random.default_rng(0).integers(0, 256, 20)
    picture = np.broadcast_to(columns.astype(np.uint8)[None, :, None], (16, 20, 3))
    found = ShorterSide(8)(Image.fromarray(np.ascontiguousarray(picture)))
    assert found.shape == (8, 8, 3)
    expected = [(columns[2 * i - 1] + 3 * columns[2 * i] + 3 * columns[2 * i + 1] + columns[2 * i + 2]) / 8
                for i in range(1, 9)]
    assert np.abs(found[4, :, 0] - np.array(expected)).max() <= 0.51


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 200), (201, 333), (64, 64), (90, 64), (64, 91), (37, 50), (1000, 70)])
def test_the_shorter_side_is_resized_and_the_centre_cut_out_as_torchvision_does(size: tuple[int, int]) -> None:
    from torchvision.transforms import functional
    image = made.picture(1, size)
    expected = functional.center_crop(functional.resize(image, 64), [64, 64])
    assert np.array_equal(ShorterSide(64)(image), np.asarray(expected))


def test_an_image_of_the_right_height_is_only_cut() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 21, 3), dtype=np.uint8)
    assert np.array_equal(ShorterSide(8)(Image.fromarray(pixels)), pixels[:, 6:14])     # 6.5 is rounded to even


def test_lsun_is_read_from_its_database_from_folders_and_archives(tmp_path: Path) -> None:
    path = made.database(tmp_path / "lsun" / "church_outdoor_train_lmdb", size=(8, 8))
    images = lsun.load(str(path), "lsun_church", 8, flip=True)
    assert red(images) == list(range(12))
    assert lsun.load(str(path.parent), "lsun_church", 8, flip=True).key == images.key
    files = made.folder(tmp_path / "files", size=(8, 8))
    assert torch.equal(lsun.load(str(files), "lsun_bedroom", 8, flip=True).pixels, images.pixels)
    archive = made.archive(tmp_path / "files.zip", files)
    assert torch.equal(lsun.load(str(archive), "lsun_bedroom", 8, flip=True).pixels, images.pixels)
    assert images.labels is None


@pytest.mark.parametrize("name", ["church_outdoor_val_lmdb", "bedroom_train_lmdb"])
def test_another_part_of_lsun_is_refused(tmp_path: Path, name: str) -> None:
    path = made.database(tmp_path / name, count=2)
    with pytest.raises(UserError, match=rf"{name} is not LSUN's church_outdoor_train_lmdb: give that"):
        lsun.load(str(path), "lsun_church", 8, flip=True)


def test_a_packed_database_has_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bedroom_train_lmdb.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"bedroom_train_lmdb\.zip is a packed database.*unpack it"):
        lsun.load(str(tmp_path / "bedroom_train_lmdb.zip"), "lsun_bedroom", 8, flip=True)


# ImageNet

@pytest.mark.parametrize("below", [".", "train", "ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_is_read_from_class_folders(tmp_path: Path, below: str) -> None:
    made.folder(tmp_path / below, size=(8, 8))
    if below != ".":
        (tmp_path / below).parent.joinpath("val").mkdir()
    images = imagenet.load(str(tmp_path), 8, flip=True)
    assert red(images) == list(range(12))
    assert images.labels.tolist() == [value // 4 for value in range(12)]


def test_imagenet_is_read_from_the_hubs_parquet(tmp_path: Path) -> None:
    made.table(tmp_path / "data" / "train-00001-of-00002.parquet", 5, first=7, size=(8, 8))
    made.table(tmp_path / "data" / "train-00000-of-00002.parquet", 7, size=(8, 8))
    made.table(tmp_path / "data" / "test-00000-of-00001.parquet", 3, first=99)
    images = imagenet.load(str(tmp_path), 8, flip=True)
    assert red(images) == list(range(12))
    assert images.labels.tolist() == [value % 3 for value in range(12)]
    one = imagenet.load(str(tmp_path / "data" / "train-00001-of-00002.parquet"), 8, flip=True)
    assert red(one) == list(range(7, 12))


def test_the_hubs_splits_are_not_joined(tmp_path: Path) -> None:
    made.table(tmp_path / "data" / "validation-00000-of-00001.parquet", 6, size=(8, 8))
    test = made.table(tmp_path / "data" / "test-00000-of-00001.parquet", 3, size=(8, 8), first=20)
    assert red(imagenet.load(str(tmp_path), 8, flip=True)) == list(range(6))
    assert red(imagenet.load(str(test), 8, flip=True)) == [20, 21, 22]
    (tmp_path / "data" / "validation-00000-of-00001.parquet").rename(tmp_path / "data" / "eval-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet is not one of the 1 files from eval-00000"):
        imagenet.load(str(tmp_path), 8, flip=True)


@pytest.mark.parametrize("load", [partial(imagenet.load, resolution=8), cifar10.load], ids=["imagenet", "cifar10"])
def test_shards_are_complete_and_there_once(tmp_path: Path, load: Callable) -> None:
    files = [made.table(tmp_path / f"train-0000{number}-of-00003.parquet", 2) for number in range(3)]
    assert len(load(str(tmp_path), flip=True)) == 6
    copy = made.table(tmp_path / "train-00001-of-00003 (1).parquet", 2)
    with pytest.raises(UserError, match=r"train-00001-of-00003 \(1\)\.parquet is not one of the 3 files from train-00000"):
        load(str(tmp_path), flip=True)
    copy.unlink()
    files[1].unlink()
    with pytest.raises(UserError, match=r"lacks train-00001-of-00003\.parquet: copy it, or give a single file"):
        load(str(tmp_path), flip=True)


def test_images_without_published_classes_have_none(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    for labels, classes in (([-1, -1], None), ([-1, 0], [-1, 0])):
        parquet.write_table(pa.table({"image": [made.png(0), made.png(1)], "label": labels}), tmp_path / "test.parquet")
        found = imagenet.load(str(tmp_path), 8, flip=True).labels
        assert classes == (None if found is None else found.tolist())


def numbered(root: Path, names: list[str]) -> ImageSet:
    """One image in each of the folders `names`."""
    for value, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(made.png(value))
    return imagenet.load(str(root), 8, flip=True)


def test_a_folder_that_is_a_number_is_that_class(tmp_path: Path) -> None:
    by_number = numbered(tmp_path / "a", ["0", "1", "2", "10", "11"])
    assert by_number.labels.tolist() == [0, 1, 10, 11, 2]
    assert by_number.class_count is None
    by_name = numbered(tmp_path / "b", ["n00000003", "n00000007", "10"])
    assert (by_name.labels.tolist(), by_name.class_count) == ([0, 1, 2], 3)


VALIDATION = {
    "numbers": "".join(f"ILSVRC2012_val_{i:08d}.JPEG {65 - i}\n" for i in range(4)),
    "synsets": "ImageId,PredictionString\n" + "".join(f"ILSVRC2012_val_{i:08d},n0000006{5 - i} 1 2 3 4\n" for i in range(4)),
}


@pytest.mark.parametrize(("kind", "classes"), [("numbers", [65, 64, 63, 62]), ("synsets", [3, 2, 1, 0])])
def test_the_flat_validation_folder_takes_its_classes_from_a_file(tmp_path: Path, kind: str, classes: list[int]) -> None:
    for i in range(4):
        made.picture(i, (8, 8)).save(tmp_path / f"ILSVRC2012_val_{i:08d}.JPEG")
    (tmp_path / "val.txt").write_text(VALIDATION[kind])
    images = imagenet.load(str(tmp_path), 8, flip=True, labels=str(tmp_path / "val.txt"))
    assert images.labels.tolist() == classes
    assert images.labels.dtype == torch.int64
    without = imagenet.load(str(tmp_path), 8, flip=True)
    assert without.labels is None
    assert without.key != images.key


def test_grey_images_may_be_asked_for(tmp_path: Path) -> None:
    made.folder(tmp_path)
    assert imagenet.load(str(tmp_path), 8, flip=True, channels=1).pixels.shape == (12, 1, 8, 8)


def kit(folder: Path, numbers: str = "3\n1\n3\n2\n") -> Path:
    """The development kit's files: leaves numbered in another order than their synsets', above them one that is none."""
    folder.mkdir(exist_ok=True)
    rows = [(1, "n00000009", 0), (2, "n00000003", 0), (3, "n00000005", 0), (4, "n00000001", 3)]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    savemat(folder / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)
    return folder / "ILSVRC2012_validation_ground_truth.txt"


def validation(folder: Path, first: int = 1) -> Path:
    folder.mkdir()
    for number in range(first, first + 4):
        made.picture(number, (8, 8)).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    return folder


def test_the_validation_folder_takes_its_classes_from_the_development_kit(tmp_path: Path) -> None:
    places, file = validation(tmp_path / "val"), kit(tmp_path / "kit")
    assert imagenet.load(str(places), 8, flip=True, labels=str(file)).labels.tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize(("first", "numbers"), [(0, "3\n1\n3\n2\n"), (2, "3\n1\n3\n2\n"), (1, "3\n4\n3\n2\n")])
def test_an_image_that_the_kit_has_no_class_for_is_named(tmp_path: Path, first: int, numbers: str) -> None:
    places, file = validation(tmp_path / "val", first), kit(tmp_path / "kit", numbers)
    with pytest.raises(UserError, match=r"ground_truth\.txt has no class for ILSVRC2012_val_0000000\d\.JPEG"):
        imagenet.load(str(places), 8, flip=True, labels=str(file))


def test_the_kits_numbers_alone_are_not_enough(tmp_path: Path) -> None:
    places, file = validation(tmp_path / "val"), kit(tmp_path / "kit")
    (tmp_path / "kit" / "meta.mat").write_bytes(b"no such file")
    with pytest.raises(UserError, match=r"meta\.mat is no readable meta\.mat"):
        imagenet.load(str(places), 8, flip=True, labels=str(file))
    (tmp_path / "kit" / "meta.mat").unlink()
    with pytest.raises(UserError, match=r"numbers the classes in an order of its own: copy the kit's meta\.mat beside it"):
        imagenet.load(str(places), 8, flip=True, labels=str(file))


@pytest.mark.parametrize("content", ["ILSVRC2012_val_00000000 3\n", ""])
def test_a_file_that_leaves_images_without_class_is_refused(tmp_path: Path, content: str) -> None:
    for i in range(4):
        made.picture(i, (8, 8)).save(tmp_path / f"ILSVRC2012_val_{i:08d}.JPEG")
    (tmp_path / "truth.txt").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.labels=.*truth\.txt names no class for .*val_0000000\d\.JPEG"):
        imagenet.load(str(tmp_path), 8, flip=True, labels=str(tmp_path / "truth.txt"))


def test_the_file_of_classes_is_an_option_of_imagenet_alone(config) -> None:
    from diffprune.config.naming import run_name
    from diffprune.config.validation import check_values
    base = ("dataset=imagenet", "model=ldm_imagenet", "dataset.path=.")
    assert run_name(config(*base, "dataset.labels=val.txt")) == run_name(config(*base))
    with pytest.raises(UserError, match=r"dataset\.labels is no option"):
        check_values(config("+dataset.labels=val.txt"))


def test_parquet_files_name_their_classes_themselves(tmp_path: Path) -> None:
    file = made.table(tmp_path / "train.parquet")
    (tmp_path / "val.txt").write_text(VALIDATION["numbers"])
    with pytest.raises(UserError, match="no use with Parquet"):
        imagenet.load(str(file), 8, flip=True, labels=str(tmp_path / "val.txt"))


# any folder

def test_the_splits_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        made.folder(tmp_path / split, size=(8, 8))
    with pytest.raises(UserError, match=r"the folders of the data set are its splits test, train: give one"):
        image_folder.load(str(tmp_path), 8, 3, flip=False)


def test_an_archive_is_read_like_the_folder_that_it_holds(tmp_path: Path) -> None:
    folder = made.folder(tmp_path / "images")
    (folder / "class_0" / "._000.png").write_bytes(b"what macOS leaves behind")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "x.png").write_bytes(b"this too")
    packed = image_folder.load(str(made.archive(tmp_path / "images.zip", folder)), 8, 3, flip=False)
    (folder / "__MACOSX" / "x.png").unlink()
    images = image_folder.load(str(folder), 8, 3, flip=False)
    assert torch.equal(packed.pixels, images.pixels)
    assert torch.equal(packed.labels, images.labels)
    assert images.labels.dtype == torch.int64


def test_every_type_of_image_is_read_and_the_rest_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kinds = ["bmp", "gif", "jfif", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"]
    folder = tmp_path / "images"
    (folder / "@eaDir" / "0.png").mkdir(parents=True)
    made.picture(99).save(folder / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_M.jpg")
    for kind in kinds:
        made.picture(1, (8, 8)).convert("L").save(folder / f"x.{kind}", format="JPEG" if kind == "jfif" else None)
    for name in ("a.heic", "b.HEIC", "notes", ".hidden"):
        (folder / name).write_bytes(b"")
    archive = made.archive(tmp_path / "images.zip", folder)
    for place in (folder, archive):
        assert len(image_folder.load(str(place), 8, 3, flip=False)) == len(kinds)
        assert caplog.messages[-1] == f"passed over in {place}: 2 .heic, 1 without a suffix"


@pytest.mark.parametrize("name", ["images.tar", "train.parquet"])
def test_a_file_that_holds_no_tree_is_not_called_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name} is a file: give a folder with images, or a zip archive of them"):
        image_folder.load(str(tmp_path / name), 8, 3, flip=False)


def test_files_are_read_in_path_order_whatever_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    for value, name in enumerate(["a/z.png", "a.jpg", "a1/b/c.PNG", "a1/b.webp", "b.JPEG"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(made.png(value))
    expected = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    listed, source = os.scandir, image_folder.tree(str(tmp_path))
    assert [source.path(i) for i in range(len(source))] == expected

    class Reversed(list):
        def __enter__(self) -> list:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda place: Reversed(sorted(listed(place), key=lambda e: e.name, reverse=True)))
    assert image_folder.tree(str(tmp_path)).names == source.names


def test_the_key_follows_names_sizes_resolution_and_classes(tmp_path: Path) -> None:
    folder = made.folder(tmp_path / "a")
    keys = [image_folder.load(str(folder), 8, 3, flip=False).key, image_folder.load(str(folder), 4, 3, flip=False).key,
            image_folder.load(str(folder), 8, 1, flip=False).key]
    assert image_folder.load(str(folder.rename(tmp_path / "moved")), 8, 3, flip=True).key == keys[0]
    (tmp_path / "moved" / "class_1" / "005.png").write_bytes(made.png(77, (30, 30)))
    keys.append(image_folder.load(str(tmp_path / "moved"), 8, 3, flip=False).key)
    (tmp_path / "moved" / "class_1" / "005.png").rename(tmp_path / "moved" / "class_1" / "006b.png")
    keys.append(image_folder.load(str(tmp_path / "moved"), 8, 3, flip=False).key)
    assert len(set(keys)) == len(keys)


# pictures of every kind

def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("data", "expected"), [
    (saved(Image.new("L", (4, 4), 90), "PNG"), (90, 90, 90)),
    (saved(Image.new("LA", (4, 4), (90, 0)), "PNG"), (255, 255, 255)),
    (saved(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
    (saved(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
    (saved(Image.new("RGBA", (4, 4), (10, 20, 30, 255)), "PNG"), (10, 20, 30)),
    (saved(Image.new("RGBA", (4, 4), (10, 20, 30, 102)), "WEBP", lossless=True, exact=True), (157, 161, 165)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)), "PNG", transparency=(10, 20, 30)), (255, 255, 255)),
    (saved(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)).quantize(), "PNG"), (10, 20, 30)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)).quantize(), "PNG", transparency=b"\x00\x80"), (255, 255, 255)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)), "BMP"), (10, 20, 30)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)), "TIFF"), (10, 20, 30)),
    (saved(Image.new("RGB", (4, 4), (10, 20, 30)), "GIF"), (10, 20, 30)),
    (saved(Image.fromarray(np.full((4, 4), 257 * 90 + 3, np.uint16)), "PNG"), (90, 90, 90)),
], ids=["grey", "grey alpha", "bits", "transparent", "opaque", "webp", "one colour transparent", "cmyk", "palette",
        "palette alpha", "bmp", "tiff", "gif", "16 bit"])
def test_a_picture_of_any_kind_becomes_rgb_or_grey(data: bytes, expected: tuple[int, int, int]) -> None:
    image = decoded(data, 3)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).reshape(-1, 3).astype(int) - expected).max() <= 3
    assert decoded(data, 1).mode == "L"


def test_sixteen_bits_are_scaled_to_eight() -> None:
    levels = Image.fromarray(np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16))
    assert np.asarray(converted(levels, "L")).tolist() == [[0, 0, 1, 1, 128, 254, 255, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photograph_stands_upright(kind: str) -> None:
    levels = np.zeros((32, 16), np.uint8)
    levels[:8] = 255
    for orientation, bright in ((1, np.s_[:8]), (3, np.s_[-8:]), (6, np.s_[:, -8:]), (8, np.s_[:, :8])):
        image = Image.fromarray(levels)
        image.getexif()[0x0112] = orientation
        shown = np.asarray(decoded(saved(image, kind, exif=image.getexif()), 1)).astype(int)
        assert shown.shape == ((32, 16) if orientation < 5 else (16, 32))
        assert shown[bright].mean() > 240
        assert shown.mean() < 70


def test_damaged_exif_data_do_not_hide_an_image() -> None:
    assert decoded(saved(Image.new("RGB", (8, 8), (9, 9, 9)), "JPEG", exif=b"Exif\0\0no such thing"), 1).size == (8, 8)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_levels_without_a_known_range_are_refused(kind: type) -> None:
    with pytest.raises(BadImage, match="has numbers of 32 bits"):
        decoded(saved(Image.fromarray(np.full((4, 4), 1, kind)), "TIFF"), 3)


def test_an_image_beyond_pillows_limits_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(BadImage, match=r"larger than Pillow's limit \(Image size \(16 pixels\)"):
        decoded(saved(Image.new("L", (4, 4)), "PNG"), 1)


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    made.picture(7, (8, 8)).save(tmp_path / "x.png" / "a.png")
    images = image_folder.load(str(tmp_path), 8, 3, flip=False)
    assert red(images) == [7]
    assert images.labels.tolist() == [0]


def test_cifar10_in_one_parquet_file(tmp_path: Path) -> None:
    file = made.table(tmp_path / "cifar.parquet", 5, "img", size=(32, 32))
    assert red(cifar10.load(str(file), flip=False)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"holds no test\*\.parquet"):
        cifar10.load(str(file), flip=False, split="test")
