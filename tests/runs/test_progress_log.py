"""The progress log of a training."""

import json
from pathlib import Path

import pytest

from diffprune.runs.progress_log import ProgressLog
from diffprune.runtime.checksums import checksum_file
from diffprune.runtime.errors import Damaged


def write(path: Path, *steps: int, resumed_at: int = 0, **how) -> None:
    with ProgressLog(path, resumed_at, **how) as log:
        for step in steps:
            log.write(step, step / 8, 2e-4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert ProgressLog.read(path) == []
    write(path, 2, 4)
    first, second = ProgressLog.read(path)
    assert list(first) == ["step", "loss", "lr", "seconds"]
    assert (first["step"], first["loss"], second["step"], second["loss"]) == (2, .25, 4, .5)


def test_a_restart_repeats_and_loses_no_line_and_goes_on_with_the_seconds(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0, "lr": 0.1, "seconds": 50.0 * step}) for step in (2, 4)]
    path.write_text("".join(f"{line}\n" for line in lines))
    write(path, 4, 6, resumed_at=3)
    lines = ProgressLog.read(path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["seconds"] == pytest.approx(100, abs=10)


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    write(path, 2)
    checksum_file(path).unlink()        # as it is until the training ends
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in ProgressLog.read(path)] == [2]
    write(path, 4, resumed_at=2)
    assert [line["step"] for line in ProgressLog.read(path)] == [2, 4]


def test_steps_of_earlier_rounds_count_for_the_tracker_alone(tmp_path: Path) -> None:
    tracked = []
    write(tmp_path / "progress.jsonl", 2, previous_steps=10,
          track=lambda numbers, step: tracked.append((step, sorted(numbers))))
    assert tracked == [(12, ["loss", "lr", "seconds"])]
    assert ProgressLog.read(tmp_path / "progress.jsonl")[0]["step"] == 2


def test_a_log_that_lost_or_changed_a_line_after_the_training_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    write(path, 2, 4)
    lines = path.read_text().splitlines(keepends=True)
    for damaged in (lines[0], "", "".join(lines).replace('"step": 4', '"step": 5')):
        path.write_text(damaged)
        with pytest.raises(Damaged, match=r"progress\.jsonl differs from its checksum"):
            ProgressLog.read(path)
    checksum_file(path).unlink()
    path.write_text('{"step" 2}\n')
    with pytest.raises(Damaged, match=r"progress\.jsonl is damaged"):
        ProgressLog.read(path)
