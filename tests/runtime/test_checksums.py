"""Checksums of files that several processes read and make anew."""

from pathlib import Path

import pytest

from diffprune.runtime import checksums
from diffprune.runtime.checksums import intact, write_checksum
from diffprune.runtime.files import atomic_file


def written(path: Path, content: bytes) -> None:
    with atomic_file(path, checksum=True) as partial:
        partial.write_bytes(content)


def test_a_damaged_file_is_discarded_with_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    written(path, b"images")
    path.write_bytes(b"damage")
    assert not intact(path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_makes_anew_while_it_is_read_is_kept(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "images.npy", checksums.sha256
    path.write_bytes(b"images")
    write_checksum(path)
    path.write_bytes(b"damage")

    def slow(file: Path) -> str:
        """The digest of `file`, which another process replaces just after it was read."""
        digest = read(file)
        monkeypatch.setattr(checksums, "sha256", read)
        written(path, b"images")
        return digest

    monkeypatch.setattr(checksums, "sha256", slow)
    assert intact(path)
    assert path.read_bytes() == b"images"
