"""A run's folder and what runs share."""

from pathlib import Path

import pytest

from diffprune.config.naming import run_folder
from diffprune.runs.cache import Cache, locked
from diffprune.runs.run import Run


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
