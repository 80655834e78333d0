"""Shards of a set: drawn by one process each, joined once, complete or not there."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffprune.sampling.shards import Shards

MEGABYTE = 2**20


def pictures(shard: range, side: int = 2) -> np.ndarray:
    return np.stack([np.full((side, side, 1), index, np.uint8) for index in shard])


def fill(shards: Shards) -> None:
    for shard in shards.missing():
        with shards.claimed(shard) as claimed:
            if claimed:
                shards.write(shard, pictures(shard))


def test_a_shard_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    one, other = (Shards(tmp_path / "set.npy", 4, 2, {}) for _ in range(2))
    shard = one.all[0]
    with one.claimed(shard) as first:
        with other.claimed(shard) as second, other.claimed(one.all[1]) as next_one:
            assert (first, second, next_one) == (True, False, True)
        one.write(shard, pictures(shard))
    with other.claimed(shard) as again:
        assert not again
    assert other.missing() == [range(2, 4)]


def test_the_complete_set_is_in_order_and_nothing_else_is_left(tmp_path: Path) -> None:
    shards, older = Shards(tmp_path / "set.npy", 7, 3, {}), Shards(tmp_path / "set.npy", 7, 3, {"precision": "bf16"})
    older.write(older.all[1], pictures(older.all[1]))
    assert shards.missing() == [range(3), range(3, 6), range(6, 7)]
    fill(shards)
    shards.join()
    shards.remove()
    assert np.load(tmp_path / "set.npy")[:, 0, 0, 0].tolist() == list(range(7))
    assert (shards.missing(), shards.path.exists()) == ([], True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".set.npy.sha256", "set.npy"]


def test_who_comes_when_the_set_is_complete_draws_nothing(tmp_path: Path) -> None:
    shards, late = (Shards(tmp_path / "set.npy", 4, 2, {}) for _ in range(2))
    fill(shards)
    shards.join()
    shards.remove()
    with late.claimed(late.all[0]) as claimed:
        assert not claimed
    late.remove()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".set.npy.sha256", "set.npy"]


def test_a_shard_that_was_torn_is_missing_and_goes(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "set.npy", 2, 2, {})
    shards.folder.mkdir()
    torn = shards.folder / f".{shards.file(shards.all[0]).name}.0123abcd.partial"
    torn.write_bytes(b"half")
    assert shards.missing() == shards.all
    fill(shards)
    assert not torn.exists()
    assert shards.missing() == []


def test_a_set_that_lacks_a_shard_is_not_joined(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "set.npy", 4, 2, {})
    shards.write(shards.all[0], pictures(shards.all[0]))
    with pytest.raises(FileNotFoundError):
        shards.join()
    shards.write(shards.all[1], pictures(range(2, 3)))
    with pytest.raises(ValueError, match="has the shape"):
        shards.join()
    assert not (tmp_path / "set.npy").exists()


def test_joining_holds_one_shard_in_memory(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "set.npy", 64, 1, {})
    for shard in shards.all:
        shards.write(shard, pictures(shard, side=1024))    # one megabyte each
    tracemalloc.start()
    shards.join()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "set.npy").stat().st_size > 64 * MEGABYTE
    assert peak < 3 * MEGABYTE


def test_a_damaged_shard_is_missing_again(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "set.npy", 4, 2, {})
    fill(shards)
    content = bytearray(shards.file(shards.all[1]).read_bytes())
    content[-1] ^= 1
    shards.file(shards.all[1]).write_bytes(content)
    shards.join()
    assert shards.missing() == [shards.all[1]]
    assert not shards.path.exists()
    fill(shards)
    shards.join()
    assert np.load(shards.path)[:, 0, 0, 0].tolist() == list(range(4))


def test_a_folder_that_another_process_deletes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(tmp_path / "set.npy", 2, 2, {})
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with shards.claimed(shards.all[0]) as claimed:
        assert not claimed
