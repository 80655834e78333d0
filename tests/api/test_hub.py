"""`diffprune.push_to_hub`."""

from pathlib import Path

import pytest
from diffusers import DDIMScheduler

import diffprune
from diffprune.api import hub
from diffprune.runtime.checksums import names_below
from tests.conftest import tiny_unet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    diffprune.prune(unet := tiny_unet(), 0.5, "magnitude")
    diffprune.save_pipeline(unet, tmp_path / "model", DDIMScheduler())
    return tmp_path / "model"


class Recorded:
    """In place of the hub's own client: what it was asked for."""
    calls: list[tuple[str, dict]]

    def create_repo(self, repository: str, **options: object) -> None:
        self.calls.append((repository, options))

    def upload_folder(self, **options: object) -> None:
        self.calls.append((options.pop("repo_id"), options))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict]]:
    Recorded.calls = []
    monkeypatch.setattr(hub, "HfApi", Recorded)
    return Recorded.calls


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(folder: Path, asked: list) -> None:
    upload = diffprune.push_to_hub(folder, "someone/pruned-ddpm", dry_run=True)
    assert set(upload.files) == names_below(folder)
    assert sum(upload.files.values()) == sum(file.stat().st_size for file in folder.rglob("*")
                                             if file.is_file() and file.name != "checksums.sha256")
    assert "nothing sent" in repr(upload)
    assert asked == []


def test_the_files_of_a_dry_run_are_those_that_are_sent(folder: Path, asked: list) -> None:
    planned = diffprune.push_to_hub(folder, "someone/pruned-ddpm", dry_run=True)
    assert diffprune.push_to_hub(folder, "someone/pruned-ddpm", private=True).done
    made, sent = asked
    assert made == ("someone/pruned-ddpm", {"private": True, "exist_ok": True})
    assert sent == ("someone/pruned-ddpm", {"folder_path": folder, "allow_patterns": list(planned.files)})


def test_a_damaged_folder_and_an_impossible_name_are_refused(folder: Path, asked: list) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a repository"):
        diffprune.push_to_hub(folder, "a/b/c", dry_run=True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="checksum"):
        diffprune.push_to_hub(folder, "someone/pruned-ddpm")
    assert asked == []


def test_a_hub_that_refuses_is_one_sentence(folder: Path, asked: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, *_: object, **__: object) -> None:
        raise OSError("401 Unauthorized\nmany lines")
    monkeypatch.setattr(Recorded, "create_repo", refused)
    with pytest.raises(ValueError, match=r"401 Unauthorized\): log in") as error:
        diffprune.push_to_hub(folder, "someone/pruned-ddpm")
    assert "\n" not in str(error.value)
