"""Files appear whole or not at all."""

import errno
import subprocess
from pathlib import Path

import pytest

from diffprune.runtime.checksums import check, check_list, intact
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import (
    atomic_file,
    atomic_folder,
    read_json,
    refusals_as_user_errors,
    remove,
    sweep_partials,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"x": float("nan")})
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]
    assert '"x": 1' in file.read_text()


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / content).write_text(content)
            assert not (tmp_path / "folder" / "new").exists()
    assert sorted(f.name for f in (tmp_path / "folder").iterdir()) == ["checksums.sha256", "new"]
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".a.json.12345678.partial").write_text("half")
    (tmp_path / ".b.0.partial").mkdir()
    (tmp_path / "a.json").write_text("whole")
    sweep_partials(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "f") as partial:
        partial.touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_has_another_name_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch(mode=0o600)
    with atomic_file(tmp_path / "f") as partial:
        partial.hardlink_to(tmp_path / "plain")
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o600


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(UserError, match="thesis is a folder"):
        write_json(tmp_path / "thesis", {})
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"
    assert [f.name for f in tmp_path.iterdir()] == ["thesis"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(UserError, match="thesis is a file"), atomic_folder(tmp_path / "thesis") as partial:
        partial.mkdir()
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert [f.name for f in tmp_path.iterdir()] == ["thesis"]


def model(folder: Path, content: str = "weights") -> None:
    with atomic_folder(folder, mark="mark") as partial:
        partial.mkdir()
        (partial / "config").write_text(content)
        (partial / "mark").touch()


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "notes").write_text("mine"), lambda folder: (folder / "config").write_text("mine"),
    lambda folder: (folder / "checksums.sha256").unlink() or (folder / "mark").unlink(),
    lambda folder: (folder / "checksums.sha256").unlink() or (folder / "notes").write_text("mine"),
    lambda folder: (folder / "mark").unlink() or subprocess.run(
        "rm checksums.sha256; sha256sum * > ../sums; mv ../sums checksums.sha256", shell=True, cwd=folder, check=True)],
    ids=["added", "edited", "foreign", "foreign, with a mark", "foreign, with a list"])
def test_a_folder_with_something_of_anothers_is_never_replaced(tmp_path: Path, change) -> None:
    model(tmp_path / "model")
    change(tmp_path / "model")
    before = {file: file.read_text() for file in (tmp_path / "model").iterdir()}
    with pytest.raises(UserError, match="move"):
        model(tmp_path / "model", "other weights")
    assert {file: file.read_text() for file in (tmp_path / "model").iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    model(tmp_path / "model")
    (tmp_path / "model" / "checksums.sha256").unlink()
    model(tmp_path / "model", "other weights")
    assert (tmp_path / "model" / "config").read_text() == "other weights"
    check_list(tmp_path / "model")


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1}, checksum=True)
    model(tmp_path / "model")
    for folder, file in ((tmp_path, ".a.json.sha256"), (tmp_path / "model", "checksums.sha256")):
        subprocess.run(["sha256sum", "--check", "--strict", file], cwd=folder, check=True, capture_output=True)


def test_a_damaged_file_is_named_or_discarded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1}, checksum=True)
    assert read_json(file) == {"x": 1}
    assert intact(file)
    file.write_text('{"x": 3}')
    for read in (read_json, check):
        with pytest.raises(Damaged, match=r"a\.json differs from its checksum"):
            read(file)
    assert not intact(file)
    assert not list(tmp_path.iterdir())
    assert "a.json differs from its checksum and is made anew" in caplog.text


def test_a_damaged_file_that_another_process_discards_meanwhile_is_not_intact(tmp_path: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1}, checksum=True)
    monkeypatch.setattr("diffprune.runtime.checksums.listed", lambda _: file.unlink() or {"a.json": "0"})
    assert not intact(file)


@pytest.mark.parametrize("content", [b"", b'{"x": ', b"\xff\xff"])
def test_what_is_no_json_is_damaged_without_a_checksum_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")


def test_a_torn_checksum_counts_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1}, checksum=True)
    (tmp_path / ".a.json.sha256").write_text("0123")
    assert read_json(tmp_path / "a.json") == {"x": 1}


@pytest.mark.parametrize("function", ["os.replace", "write_checksum"])
def test_a_writer_killed_at_any_moment_leaves_no_file_with_the_checksum_of_another(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt
    write_json(tmp_path / "a.json", {"x": 1}, checksum=True)
    monkeypatch.setattr(f"diffprune.runtime.files.{function}", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {"x": 2}, checksum=True)
    assert read_json(tmp_path / "a.json") == {"x": 1 if function == "os.replace" else 2}


def test_a_file_goes_with_its_checksum_and_a_folder_never(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {}, checksum=True)
    remove(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match=r"thesis cannot be read or written"), refusals_as_user_errors():
        remove(tmp_path / "thesis")


def test_the_disk_that_is_full_is_that_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the disk of .*/cache/file is full"), refusals_as_user_errors(tmp_path / "run"), \
            atomic_file(tmp_path / "cache" / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"the disk of .*/run is full"), refusals_as_user_errors(tmp_path / "run"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(FileNotFoundError), refusals_as_user_errors():
        (tmp_path / "absent").read_text()
