"""A run's folder and what runs share."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from diffprune.config.naming import run_folder
from diffprune.runs import provenance
from diffprune.runs.cache import Cache, locked
from diffprune.runs.data_record import ModelRecord
from diffprune.runs.provenance import commits, note_commit
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_folder


def test_a_run_lies_under_its_data_set_and_name(config, tmp_path: Path) -> None:
    run = Run(run_folder(config()))
    assert run.folder.parent == tmp_path / "runs" / "digits"
    assert not run.folder.exists()


def test_the_configuration_is_written_down_once(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.open("device: auto\n")
    written = run.config.stat().st_mtime_ns
    run.open("device: auto\n")
    assert run.config.stat().st_mtime_ns == written
    run.open("device: cpu\n")
    assert run.config.read_text() == "device: cpu\n"


def test_an_untrained_model_is_the_pruned_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert (run.final(trains=False), run.final(trains=True)) == (run.pruned, run.finetuned)


@pytest.mark.slow
def test_a_lock_keeps_a_second_process_waiting(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.conftest import ROOT
    script = ("import sys; from pathlib import Path; from diffprune.runs.cache import locked\n"
              "with locked(Path(sys.argv[1]), 'it'): print('in', flush=True)")
    with locked(tmp_path / "lock", "it"):
        other = subprocess.Popen([sys.executable, "-c", script, tmp_path / "lock"], cwd=ROOT, stdout=subprocess.PIPE,
                                 text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    assert other.communicate(timeout=20)[0] == "in\n"


def test_cache_entries_are_filed_under_their_content(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.entry("kind", {"a": 1}, ".txt") as first, cache.entry("kind", {"a": 2}, ".txt") as second:
        assert first != second
    with cache.entry("kind", {"a": 1}, ".txt") as again:
        assert again == first


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"locks/it\.lock cannot be locked"), locked(Cache(tmp_path).lock("it"), "it"):
        pass


def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []

    def file() -> str:
        with cache.entry("kind", "file", ".txt") as path:
            if not path.exists():
                made.append(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("content")
            return path.read_text()

    def folder() -> str:
        with cache.entry("kind", "folder", "") as path:
            if not path.exists():
                made.append(path / "content")
                with atomic_folder(path) as partial:
                    partial.mkdir()
                    (partial / "content").write_text("content")
            return (path / "content").read_text()

    for entry in (file, folder):
        made.clear()
        assert [entry(), entry()] == ["content", "content"]
        assert len(made) == 1
        made[0].write_text("kontent")
        assert entry() == "content"
        assert len(made) == 2


def test_a_new_entry_of_the_cache_has_its_own_checksum_however_the_former_went(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def made(content: str) -> str:
        with cache.entry("kind", "file", ".txt") as path:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            return path.read_text()

    assert made("first") == "first"
    cache.path("kind", "file", ".txt").unlink()     # by hand
    assert made("second") == "second"
    assert made("third") == "second"
    cache.path("kind", "file", ".txt").write_text("damaged")
    assert made("fourth") == "fourth"
    assert made("fifth") == "fourth"


def test_a_run_keeps_to_the_dense_model_that_it_was_started_with(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    ModelRecord("key", "folder").keep(run)
    ModelRecord("key", "moved").keep(run)
    with pytest.raises(UserError, match=r"another dense model than model\.checkpoint=folder holds now"):
        ModelRecord("other", "folder").keep(run)


def test_each_stage_has_the_commits_under_which_it_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    for stage, commit in (("score", "a"), ("finetune", "a"), ("finetune", "a"), ("finetune", "b"), ("sample", None)):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        note_commit(run, stage)
    assert commits(run) == {"score": ["a"], "finetune": ["a", "b"]}
