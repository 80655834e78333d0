"""The proof of the kills is one: it kills, and sees what differs."""

import random
import re
from pathlib import Path

import pytest

from experiments.upkeep import kill_test


@pytest.mark.slow
def test_runs_killed_and_stopped_at_random_moments_are_those_that_never_were(capsys: pytest.CaptureFixture) -> None:
    kill_test.main(["--kills", "2", "--stops", "3", "experiment=smoke", "pruner=magnitude", "evaluate.speed=false",
                    "evaluate.before_healing=false", "sampler.processes=1"])
    assert re.fullmatch(r"(SIG.* after .* s\n){5}2 kills: .*\n3 stops: .*\nevery number, weight and image is that of .*\n",
                        capsys.readouterr().out)


def test_moments_lie_in_the_start_and_all_over_the_work() -> None:
    chosen = kill_test.moments(40, 5.0, 60.0, random.Random(0))
    assert sum(working for working, _ in chosen) == 27
    assert all(seconds < 5 for working, seconds in chosen if not working)
    assert 50 < sum(seconds for working, seconds in chosen if working) < 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "digits" / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "metrics.json").write_text('{"fid": 1.5, "speedup": 2.0, "seconds": {"score": 1}}')
    (run / "progress.jsonl").write_text('{"step": 1, "loss": 3.0, "seconds": 0.1}\n')
    (run / "images.npy").write_bytes(b"images")
    (run / "diffprune.log").write_text("log")
    return tmp_path


@pytest.mark.parametrize(("file", "words", "differs"), [
    ("metrics.json", ("1.5", "1.6"), True), ("metrics.json", ("2.0", "3.0"), False),
    ("progress.jsonl", ("3.0", "3.1"), True), ("progress.jsonl", ("0.1", "0.2"), False),
    ("images.npy", ("images", "imagez"), True), ("diffprune.log", ("l", "k"), False)])
def test_everything_but_the_time_counts(folder: Path, file: str, words: tuple[str, str], differs: bool) -> None:
    before, path = kill_test.digests(folder), folder / "runs" / "digits" / "run" / file
    path.write_text(path.read_text().replace(*words))
    assert (kill_test.digests(folder) != before) == differs
