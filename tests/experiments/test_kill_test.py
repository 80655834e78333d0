"""The proof of the kills is one: it kills, and sees what differs."""

import re
from pathlib import Path

import pytest

from experiments.upkeep import kill_test


@pytest.mark.slow
def test_a_run_killed_at_random_moments_is_that_of_one_that_never_was(capsys: pytest.CaptureFixture) -> None:
    kill_test.main(["--kills", "2", "experiment=smoke", "pruner=magnitude", "evaluate.speed=false",
                    "evaluate.before_healing=false", "sampler.processes=1"])
    assert re.fullmatch(r"2 kills \(1 in .*|2 kills \(2 in .*", capsys.readouterr().out.strip())     # one may come too late


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "digits" / "run"
    run.mkdir(parents=True)
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
