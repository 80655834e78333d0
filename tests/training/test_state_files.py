"""Training states on the disk."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from diffprune.models import weights
from diffprune.training.state_files import Damaged, newest_state, read_state, write_state

TENSORS = {"weight/0": torch.arange(6.0).view(2, 3), "step": torch.tensor(3), "half": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """States of steps 1, 2 and 3."""
    paths = [tmp_path / f"state-{step}.safetensors" for step in (1, 2, 3)]
    for step, path in enumerate(paths, 1):
        write_state(path, TENSORS, {"step": step})
    return paths


def test_a_state_comes_back_whole(files: list[Path]) -> None:
    tensors, about = read_state(files[0])
    assert about == {"step": 1}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def harm(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-2] ^= 1
    elif how == "renumbered":       # a damaged header that still is one
        content[:] = content.replace(b'\\"step\\": 3', b'\\"step\\": 9')
    path.write_bytes(b"" if how == "empty" else content[:-8] if how == "torn" else content)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "renumbered", "empty", "torn", "missing"])
def test_a_damaged_newest_state_gives_way_to_the_one_before(files: list[Path], how: str,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    harm(files[2], how)
    with pytest.raises(Damaged, match=r"state-3.safetensors"):
        read_state(files[2])
    assert newest_state(files)[1] == {"step": 2}
    (said,) = caplog.messages
    assert "state-3.safetensors" in said
    assert "going back" in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_state_that_cannot_be_read_now_is_not_damaged(files: list[Path], monkeypatch: pytest.MonkeyPatch,
                                                         number: int) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        newest_state(files)


def test_without_a_whole_state_there_is_none(files: list[Path]) -> None:
    for path in files:
        harm(path, "torn")
    assert newest_state(files) is None
    assert newest_state([]) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_what_was_there(files: list[Path], monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """safetensors says it in words of its own."""
    def no_room(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    monkeypatch.setattr(weights, "save_file", no_room)
    before = {path.name: path.read_bytes() for path in files[0].parent.iterdir()}
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        write_state(files[2], TENSORS, {"step": 4})
    assert error.value.errno == number
    assert {path.name: path.read_bytes() for path in files[0].parent.iterdir()} == before
