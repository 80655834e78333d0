"""Streamed sets: the same batches as in memory, read ahead by processes, started quickly whatever their size."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.config.naming import run_name
from diffprune.data import celeba, image_folder, imagenet, lsun
from diffprune.data.loading.held import HeldImages
from diffprune.data.loading.images import ImageSet
from diffprune.data.loading.readable import Readable
from diffprune.data.loading.streamed import Requests, StreamedImages
from diffprune.data.loading.transforms import ShorterSide
from diffprune.data.sources.folder import FolderSource
from diffprune.data.sources.names import classes
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_images
from tests import data_sets_on_disk as made
from tests.conftest import ROOT


def folder(root: Path, **options: object) -> ImageSet:
    return image_folder.load(str(made.folder(root / "images")), 8, 3, flip=True, **options)


def archive(root: Path, **options: object) -> ImageSet:
    made.archive(root / "images.zip", made.folder(root / "images"))
    return image_folder.load(str(root / "images.zip"), 8, 3, flip=True, **options)


def database(root: Path, **options: object) -> ImageSet:
    path = root / "bedroom_train_lmdb"
    return lsun.load(str(path if path.exists() else made.database(path)), "lsun_bedroom", 8, flip=True, **options)


def table(root: Path, **options: object) -> ImageSet:
    made.table(root / "train-0.parquet", 7)
    made.table(root / "train-1.parquet", 5, first=7)
    return imagenet.load(str(root), 8, flip=True, **options)


def faces(root: Path, **options: object) -> ImageSet:
    if not (root / "img_align_celeba").exists():
        made.celeba(root, {f"{i:06d}.jpg": int(i == 5) for i in range(13)})
    return celeba.load(str(root), 8, flip=True, **options)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("load", [folder, archive, database, table, faces], ids=lambda load: load.__name__)
def test_a_streamed_set_gives_what_one_in_memory_gives(load: Callable[..., ImageSet], tmp_path: Path) -> None:
    held = load(tmp_path)
    assert isinstance(held, HeldImages)
    for workers in (0, 2):
        images = load(tmp_path, memory_gb=0, workers=workers)
        assert isinstance(images, StreamedImages)
        assert (len(images), images.key) == (len(held), held.key) == (12, held.key)
        for part in ((0, 1), (1, 2)) if workers else ((0, 1), (0, 3), (2, 3)):
            both = zip(images.batches(2, 6, 5, 7, part), held.batches(2, 6, 5, 7, part), strict=True)
            for (pixels, labels), (expected, known) in both:
                assert torch.equal(pixels, expected)
                assert (labels is None) == (known is None) == (held.labels is None)
                assert labels is None or torch.equal(labels, known)
        assert torch.equal(made.batch(images, 3, 5, 7), made.batch(held, 3, 5, 7))
        assert torch.equal(images.calibration(5, 7), held.calibration(5, 7))
        for chunk, expected in zip(images.chunks(5, [3, 1, 7, 7, 0, 2]), held.chunks(5, [3, 1, 7, 7, 0, 2]), strict=True):
            assert np.array_equal(chunk, expected)
        assert np.array_equal(np.concatenate(list(images.chunks(5))), np.concatenate(list(held.chunks(5))))
        assert images.to("cpu") is images


@pytest.mark.parametrize("load", [folder, archive, database, table], ids=lambda load: load.__name__)
def test_a_reading_process_may_be_started_anew(load: Callable[..., ImageSet], tmp_path: Path) -> None:
    """Where processes are not forked, what they read from travels to them."""
    requests = Requests(load(tmp_path, memory_gb=0).readable)
    pixels, origin, bad = requests[torch.tensor([4, 2])]
    copied = pickle.loads(pickle.dumps(requests))[torch.tensor([4, 2])]
    assert np.array_equal(copied[0], pixels)
    assert (copied[1].tolist(), copied[2]) == (origin.tolist(), bad) == ([4, 2], {})


def test_parquet_is_held_without_a_copy_of_it(tmp_path: Path) -> None:
    table(tmp_path)
    assert not (tmp_path / "cache").exists()
    table(tmp_path, memory_gb=0)
    assert (tmp_path / "cache").exists()


@pytest.mark.slow
def test_memory_decides_and_is_no_part_of_the_experiment(tmp_path: Path, config) -> None:
    made.folder(tmp_path / "images", size=(8, 8))
    base = ["dataset=image_folder", "model=ddpm_cifar10", f"dataset.path={tmp_path}/images", "dataset.resolution=8"]
    kept, streamed = config(*base), config(*base, "dataset.memory_gb=2.3e-6", "dataset.workers=3")
    assert isinstance(load_images(kept), HeldImages)
    assert isinstance(load_images(streamed), StreamedImages)
    assert isinstance(load_images(config(*base, "dataset.memory_gb=2.304e-6")), HeldImages)     # 12 x 3 x 8 x 8 bytes
    assert run_name(kept) == run_name(streamed)
    assert torch.equal(made.batch(load_images(kept), 5, 7, 0), made.batch(load_images(streamed), 5, 7, 0))
    assert run_name(config(*base, "dataset.on_error=stop")) == run_name(kept)
    assert run_name(config(*base, "dataset.on_error=skip")) != run_name(kept)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_into_memory_shows_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    seen: list[tuple[str, int, list[int]]] = []

    def progress(items: Iterator[int], what: str, total: int) -> Iterator[int]:
        done = list(items)
        seen.append((what, total, done))
        return iter(done)

    monkeypatch.setattr("diffprune.data.loading.held.progress", progress)
    monkeypatch.setattr("diffprune.data.loading.held.CHUNK", 5)
    images = folder(tmp_path, workers=workers)
    assert not seen         # nothing is decoded before the first use
    images.calibration(2, 0)
    assert seen == [("reading images", 12, list(range(12)))]
    assert np.array_equal(np.concatenate(list(folder(tmp_path, memory_gb=0).chunks(3))), next(images.chunks(12)))


def test_reading_ahead_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    images, before = folder(tmp_path, memory_gb=0, workers=1), torch.get_rng_state()
    assert len(list(images.batches(0, 3, 4, 0))) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_of_a_streamed_set_is_shuffled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, shuffle = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn.append(1) or shuffle(*a, **k))
    assert len(list(folder(tmp_path, memory_gb=0, workers=1).batches(0, 6, 6, 0))) == 6
    assert len(drawn) == 3


def test_a_killed_reading_process_ends_the_run_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getpid()
    monkeypatch.setattr(FolderSource, "read", lambda *_: os.getpid() == here or os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"a process that reads images was killed.*lower dataset\.workers=1"):
        next(folder(tmp_path, memory_gb=0, workers=1).batches(0, 3, 4, 0))


def test_a_database_is_read_by_several_sets_and_after_a_fork(tmp_path: Path) -> None:
    first, second = database(tmp_path, memory_gb=0), database(tmp_path, memory_gb=0, workers=2)
    assert torch.equal(made.batch(first, 0, 4, 0), made.batch(second, 0, 4, 0))
    assert torch.equal(next(second.batches(0, 2, 4, 0))[0], made.batch(first, 0, 4, 0))


# a listing of 1.3 million names

class Entry:
    def __init__(self, name: str, folder: bool) -> None:
        self.name, self.folder = name, folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.folder


class Listing:
    """What os.scandir gives: entries in an order that is not theirs."""

    def __init__(self, names: list[str], folder: bool) -> None:
        self.names, self.folder = names, folder

    def __enter__(self) -> Iterator[Entry]:
        return (Entry(name, self.folder) for name in reversed(self.names))

    def __exit__(self, *_: object) -> None: ...


FOLDERS, FILES = 1000, 1300


def nested(place: str) -> Listing:
    top = os.path.basename(place)
    if top == "imagenet":
        return Listing([f"n{i:08d}" for i in range(FOLDERS)], folder=True)
    return Listing([f"{top}_{i:06d}.JPEG" for i in range(FILES)], folder=False)


def flat(_: str) -> Listing:
    return Listing([f"ILSVRC2012_train_{i:08d}.JPEG" for i in range(FOLDERS * FILES)], folder=False)


@pytest.fixture
def million(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """1.3 million files that can be listed and nothing else."""
    def asked(*_: object) -> None:
        raise AssertionError("a file was touched")

    monkeypatch.setattr(os, "scandir", request.param)
    monkeypatch.setattr(os, "stat", asked)


@pytest.mark.slow
@pytest.mark.parametrize("million", [nested, flat], indirect=True, ids=["nested", "flat"])
def test_a_set_of_a_million_files_starts_within_seconds(million: None) -> None:
    start = time.process_time()
    source = FolderSource.of(Path("/imagenet"))
    labels, _ = classes(source.names)
    images = StreamedImages(imagenet_readable(source, labels), True, 0)
    images.order.indices(0, 64, 0)
    assert time.process_time() - start < 10
    assert len(images) == 1_300_000
    assert source.names.nbytes < 80e6
    assert labels is None or labels.bincount().tolist() == [FILES] * FOLDERS


MEASURE = """
import os
from pathlib import Path
from diffprune.data.sources.folder import FolderSource
from diffprune.runs.status import peak_memory
from tests.data import test_streamed as here
os.scandir = here.{listing}
before, _ = peak_memory()
assert len(FolderSource.of(Path("/imagenet"))) == 1_300_000
print(peak_memory()[0] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("listing", "megabytes"), [("nested", 300), ("flat", 500)])
def test_listing_a_million_files_takes_bounded_memory(listing: str, megabytes: int) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE.format(listing=listing)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < megabytes * 1e6


def imagenet_readable(source: FolderSource, labels: torch.Tensor | None) -> Readable:
    return Readable(source, ShorterSide(256), labels)
