"""What a run's folder says of its data."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from diffprune.config.naming import run_folder
from diffprune.data import last_loaded
from diffprune.data.loading import held as loading
from diffprune.data.loading.images import ImageSet
from diffprune.evaluation.features import load_extractor
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pipeline import stages
from diffprune.pruning.gradient_cache import GradientCache
from diffprune.runs.data_record import data_moved, note_skipped
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.stages import score
from diffprune.stages.evaluate import reference_of
from diffprune.stages.options import begin_data, load_images
from diffprune.tracking.tracker import Tracker
from tests import data_sets_on_disk as made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return made.folder(tmp_path / "images", size=(8, 8))


@pytest.fixture
def on(config, tmp_path: Path):
    def composed(path: Path, *overrides: str) -> DictConfig:
        last_loaded.cache_clear()
        return config("dataset=image_folder", "model=ddpm_digits", "schedule=finetune_digits", "sampler=digits",
                      "evaluate=digits", "dataset.resolution=8", "dataset.channels=1", f"dataset.path={path}", *overrides)
    return composed


def begun(cfg: DictConfig, run: Run) -> ImageSet:
    """The images of a run that uses its data."""
    images = load_images(cfg)
    begin_data(cfg, run, images)
    return images


def test_a_run_goes_on_with_the_same_data_at_another_place(on, tmp_path: Path, images: Path) -> None:
    run = Run(tmp_path / "run")
    begun(on(images), run)
    images.rename(tmp_path / "moved")
    cfg = on(tmp_path / "moved")
    assert data_moved(run, cfg.dataset.path)
    begun(cfg, run)
    assert not data_moved(run, cfg.dataset.path)


def test_a_run_does_not_go_on_with_other_data(on, tmp_path: Path, images: Path) -> None:
    run = Run(tmp_path / "run")
    begun(on(images), run)
    (images / "class_0" / "000.png").unlink()
    with pytest.raises(UserError) as caught:
        begun(on(images), run)
    assert str(caught.value) == (
        f"{run.folder} was started with other data (12 images, dataset.path={images}) than dataset.path={images} holds "
        "(11 images): give those, or delete the folder")


def test_a_finished_run_is_not_shown_for_other_data(on, tmp_path: Path, images: Path) -> None:
    named = "dataset.name=pets"
    cfg = on(images, named)
    with stages(cfg, Run(run_folder(cfg))):
        begun(cfg, Run(run_folder(cfg)))
    other = on(made.folder(tmp_path / "other", count=20, size=(8, 8)), named)
    assert Run(run_folder(other)).folder == Run(run_folder(cfg)).folder
    with pytest.raises(UserError, match="was started with other data"), stages(other, Run(run_folder(other))):
        pytest.fail("goes on, though nothing is left to do")
    assert "other" not in Run(run_folder(cfg)).config.read_text()


def test_the_rounds_of_a_run_share_one_record(tmp_path: Path) -> None:
    first, last = Run(tmp_path / "run").rounds(2)
    assert first.data == last.data == tmp_path / "run" / "data.json"


def test_kept_statistics_decode_nothing(on, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load_extractor("digits-cnn", None)
    first, about = reference_of(on(images), Run(tmp_path / "run"), extractor)
    monkeypatch.setattr(loading, "held", lambda *_: pytest.fail("decoded though the statistics are there"))
    again, known = reference_of(on(images), Run(tmp_path / "run"), extractor)
    assert (first.count, about) == (again.count, known)
    assert "skipped" not in about


def test_cifar10_is_not_decoded_for_its_key_alone(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, usual = made.table(tmp_path / "train.parquet", 5, "img", size=(32, 32)), loading.held
    cfg, decoded = config("dataset=cifar10", "model=ddpm_cifar10", f"dataset.path={tmp_path}", "dataset.workers=0"), []
    monkeypatch.setattr(loading, "held", lambda *given: (decoded.append(1), usual(*given))[1])

    def key() -> str:
        last_loaded.cache_clear()
        return begun(cfg, Run(tmp_path / "run")).key

    assert key() == key() == usual(load_images(cfg).readable, flip=True).key
    assert len(decoded) == 1
    made.table(file, 6, "img", size=(32, 32))
    with pytest.raises(UserError, match="was started with other data"):
        key()
    assert len(decoded) == 2


def test_all_that_was_left_out_is_listed_with_reasons(on, tmp_path: Path, images: Path) -> None:
    extractor, bad = load_extractor("digits-cnn", None), [images / "class_0" / "001.png", images / "class_1" / "006.png"]
    for file in bad:
        file.write_bytes(b"no image")
    lines = [f"{file} is not a readable image: remove it or copy it again" for file in bad]
    for name in ("first", "from the cache"):
        run = Run(tmp_path / name)
        _, about = reference_of(on(images, "dataset.on_error=skip"), run, extractor)
        assert about["skipped"] == 2
        assert run.skipped.read_text().splitlines() == lines


def test_a_list_of_what_was_left_out_grows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    note_skipped(run, {})
    assert not run.skipped.exists()
    note_skipped(run, {"b.png": "is cut off"})
    note_skipped(run, {"a.png": "is too dark", "b.png": "is cut off"})
    assert run.skipped.read_text() == "a.png is too dark\nb.png is cut off\n"


def interrupted_pass(*_: object) -> None:
    """In place of a scoring pass that takes a minute."""
    raise InterruptedError


def test_scoring_lists_what_it_left_out(on, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "class_0" / "001.png").write_bytes(b"no image")
    monkeypatch.setattr(GradientCache, "sum", interrupted_pass)
    cfg = on(images, "dataset.on_error=skip", "pruner.calibration_batch=4")
    with pytest.raises(InterruptedError):
        score.stage(cfg, Run(run_folder(cfg)), Tracker())
    assert "class_0/001.png is not a readable image" in Run(run_folder(cfg)).skipped.read_text()


def test_scoring_checks_the_classes_of_all_images_first(on, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(DiffusionModel, "check_classes", lambda _, *classes: checked.append(classes))
    monkeypatch.setattr(GradientCache, "sum", interrupted_pass)
    cfg = on(images, "pruner.calibration_batch=4")
    with pytest.raises(InterruptedError):
        score.stage(cfg, Run(run_folder(cfg)), Tracker())
    assert [(labels.tolist(), count) for labels, count in checked] == [([0] * 4 + [1] * 4 + [2] * 4, 3)]
