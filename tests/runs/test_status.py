"""How a run stands is told by its folder alone, and truly."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffprune.runs import status as module
from diffprune.runs.run import Run
from diffprune.runs.status import STALE, RunStatus, heartbeat, keep_status, note, peak_memory, put
from diffprune.runtime.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def finish(run: Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.metrics.write_text("{}")


def state(run: Run, until: str = "evaluate") -> str:
    return RunStatus.of(run, until).state


def test_a_folder_that_is_not_there_waits(run: Run) -> None:
    assert state(run) == "waiting"


def test_a_finished_run_of_before_there_was_a_status_is_done_and_left_alone(run: Run) -> None:
    finish(run)
    assert state(run) == "done"
    with keep_status(run, "evaluate"):
        pass
    assert not run.status.exists()


def test_a_run_at_work_is_running_then_done(run: Run) -> None:
    with keep_status(run, "evaluate"):
        now = RunStatus.of(run)
        assert (now.state, now.pid) == ("running", os.getpid())
        finish(run)
    now = RunStatus.of(run)
    assert (now.state, now.reason) == ("done", "")
    assert now.since <= now.ended
    assert now.memory > 1e6


def test_a_run_without_anything_to_do_is_left_untouched(run: Run) -> None:
    with keep_status(run, "evaluate"):
        finish(run)
    before = run.status.read_bytes(), run.status.stat().st_mtime_ns
    with keep_status(run, "evaluate"):
        assert state(run) == "done"
    assert (run.status.read_bytes(), run.status.stat().st_mtime_ns) == before


def test_a_run_whose_numbers_were_deleted_waits_again(run: Run) -> None:
    with keep_status(run, "evaluate"):
        finish(run)
    run.metrics.unlink()
    assert state(run) == "waiting"


def test_a_run_that_stopped_early_is_done_as_far_as_it_was_asked(run: Run) -> None:
    with keep_status(run, "prune"):
        pass
    assert [state(run, until) for until in ("score", "prune", "finetune")] == ["done", "done", "waiting"]


@pytest.mark.parametrize(("error", "told"), [
    (UserError("delete it and repeat"), "delete it and repeat"), (ValueError("first\nlast"), "ValueError: last"),
    (MemoryError(), "MemoryError")])
def test_a_failed_run_tells_why_on_one_line(run: Run, error: Exception, told: str) -> None:
    with pytest.raises(type(error)), keep_status(run, "evaluate"):
        raise error
    assert RunStatus.of(run).state == "failed"
    assert RunStatus.of(run).reason == told


def test_a_failed_run_that_succeeds_forgets_the_failure(run: Run) -> None:
    note(run, "evaluate", ValueError("before"))
    with keep_status(run, "evaluate"):
        assert state(run) == "running"
        finish(run)
    assert state(run) == "done"


class Asked(Exception):
    code = 75


@pytest.mark.parametrize("error", [KeyboardInterrupt, Asked, lambda: SystemExit(75)])
def test_a_run_that_was_asked_to_stop_is_stopped_not_failed(run: Run, error) -> None:
    with pytest.raises(BaseException), keep_status(run, "evaluate"):  # noqa: B017, PT011
        raise error()
    assert state(run) == "stopped"


def test_a_killed_process_of_this_machine_is_seen_at_once(run: Run) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    put(run, RunStatus("running", host=socket.gethostname(), pid=os.getpid()))
    assert state(run) == "running"
    put(run, RunStatus("running", host=socket.gethostname(), pid=int(gone.stdout)))
    assert state(run) == "stopped"
    assert "is gone" in RunStatus.of(run).reason


def test_a_silent_process_of_another_machine_is_gone_after_a_while(run: Run) -> None:
    put(run, RunStatus("running", host="elsewhere", pid=1))
    assert state(run) == "running"
    silent = time.time() - STALE - 1
    os.utime(run.status, (silent, silent))
    assert state(run) == "stopped"


def test_the_heart_beats_while_there_is_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.001)
    path = tmp_path / "status.json"
    path.write_text("{}")
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    with heartbeat(path):
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
    os.utime(path, (0, 0))
    assert path.stat().st_mtime == 0


def test_a_torn_status_is_named(run: Run) -> None:
    run.folder.mkdir()
    run.status.write_text('{"state": "runn')
    assert state(run) == "failed"
    assert "status.json" in RunStatus.of(run).reason


def test_the_ledger_costs_next_to_nothing(run: Run) -> None:
    """A digits run takes more than ten seconds of two cores; a hundredth of it is 100 ms."""
    start = time.process_time()
    with keep_status(run, "evaluate"):
        finish(run)
    assert time.process_time() - start < 0.1


@pytest.mark.slow
def test_ten_thousand_folders_are_listed_in_seconds(tmp_path: Path) -> None:
    runs = [Run(tmp_path / f"run-{i}") for i in range(10_000)]
    for i, run in enumerate(runs):
        run.folder.mkdir()
        if i % 2:
            run.status.write_text(json.dumps({"state": "failed", "reason": f"reason {i}"}))
    start = time.process_time()
    states = [RunStatus.of(run) for run in runs]
    assert time.process_time() - start < 5
    assert sum(now.state == "failed" for now in states) == 5000
    assert states[9999].reason == "reason 9999"


def test_the_peak_of_a_process_is_not_that_of_its_parent() -> None:
    held = bytearray(os.urandom(1)) * 400_000_000
    said = subprocess.run([sys.executable, "-c", "from diffprune.runs.status import peak_memory; print(peak_memory()[0])"],
                          capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert 5e6 < int(said) < 200e6
    assert peak_memory()[0] > len(held)
