"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, atomic_folder, sweep_partials, write_json


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
