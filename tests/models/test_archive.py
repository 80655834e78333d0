"""Model folders in zip archives, from the disk and from an address."""

import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
from diffusers import DDIMScheduler

from diffprune.models.archive import unpack
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.runtime.errors import UserError
from diffprune.stages.options import dense_model
from tests.conftest import tiny_unet
from tests.models.test_dense import server  # noqa: F401


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip archive as the original repository's release: a folder ddpm_ema_cifar10/ in it."""
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), tmp_path / "published" / "ddpm_ema_cifar10")
    return Path(shutil.make_archive(str(tmp_path / "release"), "zip", tmp_path / "published"))


def test_an_archive_is_unpacked_once_and_loaded(archive: Path, tmp_path: Path, config, monkeypatch) -> None:
    dense = dense_model(config("model=diffusers", f"model.checkpoint={archive}"))
    model = dense.load()
    assert model.key == load_model(tmp_path / "published" / "ddpm_ema_cifar10").key
    monkeypatch.setattr("diffprune.models.dense.unpack", lambda *_: 1 / 0)
    assert dense.load().key == model.key


def test_an_archive_at_an_address_is_fetched_once(archive: Path, config, server) -> None:  # noqa: F811
    server.content = archive.read_bytes()
    dense = dense_model(config("model=diffusers", f"model.checkpoint={server.url}/release.zip"))
    model = dense.load()
    assert dense.load().key == model.key
    assert len(server.asked) == 1


def test_nothing_is_written_beside_the_folder_and_no_code(archive: Path, tmp_path: Path) -> None:
    with ZipFile(archive, "a") as content:
        content.writestr("../outside.json", "{}")
        content.writestr("ddpm_ema_cifar10/run.py", "")
    unpack(archive, tmp_path / "model")
    assert not (tmp_path / "outside.json").exists()
    assert not list((tmp_path / "model").rglob("*.py"))


@pytest.mark.parametrize(("names", "message"), [
    ([], "holds no model folder in diffusers' layout"),
    (["a/model_index.json", "b/model_index.json"], "holds 2 model folders in diffusers' layout")])
def test_an_archive_without_a_model_or_with_several_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    with ZipFile(tmp_path / "archive.zip", "w") as content:
        for name in names:
            content.writestr(name, "{}")
    with pytest.raises(UserError, match=message):
        unpack(tmp_path / "archive.zip", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("damage", [
    lambda content: content[:-100],
    lambda content: content[:len(content) // 2] + b"damage" + content[len(content) // 2 + 6:]], ids=["cut off", "changed"])
def test_a_damaged_archive_is_refused(archive: Path, tmp_path: Path, damage) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match="is no readable zip archive"):
        unpack(archive, tmp_path / "model")
