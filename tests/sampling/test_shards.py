"""Parts of a set: drawn by one process each, joined once, whole or not there."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffprune.sampling.shards import Parts

MEGABYTE = 2**20


def pictures(part: range, side: int = 2) -> np.ndarray:
    return np.stack([np.full((side, side, 1), index, np.uint8) for index in part])


def fill(parts: Parts) -> None:
    for part in parts.missing():
        with parts.claimed(part) as claimed:
            if claimed:
                parts.write(part, pictures(part))


def test_a_part_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    one, other = (Parts(tmp_path / "set.npy", 4, 2, {}) for _ in range(2))
    part = one.all[0]
    with one.claimed(part) as first:
        with other.claimed(part) as second, other.claimed(one.all[1]) as next_one:
            assert (first, second, next_one) == (True, False, True)
        one.write(part, pictures(part))
    with other.claimed(part) as again:
        assert not again
    assert other.missing() == [range(2, 4)]


def test_the_whole_set_is_in_order_and_nothing_else_is_left(tmp_path: Path) -> None:
    parts, older = Parts(tmp_path / "set.npy", 7, 3, {}), Parts(tmp_path / "set.npy", 7, 3, {"precision": "bf16"})
    older.write(older.all[1], pictures(older.all[1]))
    assert parts.missing() == [range(3), range(3, 6), range(6, 7)]
    fill(parts)
    parts.join()
    parts.remove()
    assert np.load(tmp_path / "set.npy")[:, 0, 0, 0].tolist() == list(range(7))
    assert (parts.missing(), parts.done()) == ([], True)
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


def test_who_comes_when_the_set_is_whole_draws_nothing(tmp_path: Path) -> None:
    parts, late = (Parts(tmp_path / "set.npy", 4, 2, {}) for _ in range(2))
    fill(parts)
    parts.join()
    parts.remove()
    with late.claimed(late.all[0]) as claimed:
        assert not claimed
    late.remove()
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


def test_a_part_that_was_torn_is_missing_and_goes(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "set.npy", 2, 2, {})
    parts.folder.mkdir()
    torn = parts.folder / f".{parts.file(parts.all[0]).name}.0123abcd.partial"
    torn.write_bytes(b"half")
    assert parts.missing() == parts.all
    fill(parts)
    assert not torn.exists()
    assert parts.missing() == []


def test_a_set_that_lacks_a_part_is_not_joined(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "set.npy", 4, 2, {})
    parts.write(parts.all[0], pictures(parts.all[0]))
    with pytest.raises(FileNotFoundError):
        parts.join()
    parts.write(parts.all[1], pictures(range(2, 3)))
    with pytest.raises(ValueError, match="has the shape"):
        parts.join()
    assert not (tmp_path / "set.npy").exists()


def test_shares_are_fixed_and_lock_nothing(tmp_path: Path) -> None:
    first, second = (Parts(tmp_path / "set.npy", 10, 2, {}, share=(i, 2)) for i in range(2))
    assert [part.start for part in first.mine(first.all)] == [0, 4, 8]
    assert [part.start for part in second.mine(second.all)] == [2, 6]
    for part in second.mine(second.all):
        assert not second.done()
        with second.claimed(part) as claimed:
            assert claimed
            second.write(part, pictures(part))
    assert (second.done(), first.done()) == (True, False)
    for part in first.mine(first.all):
        first.write(part, pictures(part))
    second.join()
    assert not (tmp_path / "set.npy").exists()
    first.join()
    assert np.load(tmp_path / "set.npy")[:, 0, 0, 0].tolist() == list(range(10))
    assert not list(tmp_path.glob("*/*.lock"))


def test_joining_holds_one_part_in_memory(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "set.npy", 64, 1, {})
    for part in parts.all:
        parts.write(part, pictures(part, side=1024))    # one megabyte each
    tracemalloc.start()
    parts.join()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "set.npy").stat().st_size > 64 * MEGABYTE
    assert peak < 3 * MEGABYTE
