"""Worker processes: started when needed, looked after, and gone with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import ASKING
from diffprune.sampling.workers import Workers, leave_with_parent

ROOT = Path(__file__).parents[2]     # not from the conftest, which every worker would import torch for

PARENT = """
import sys
from tests.sampling.test_workers import Workers, until_the_parent_is_gone
if __name__ == "__main__":
    with Workers(1, until_the_parent_is_gone, sys.argv[1]) as workers:
        workers.attend()
        workers.started[0].join()
"""


def end(index: int, status: int) -> None:
    os._exit(status)


def until_the_parent_is_gone(index: int, folder: str) -> None:
    Path(folder, "started").touch()
    try:
        while True:
            leave_with_parent()
    finally:
        Path(folder, "left").touch()


def appears(file: Path, within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return file.exists()


def test_nothing_starts_where_nothing_is_to_be_done() -> None:
    with Workers(2, end, 0) as workers:
        assert workers.started == []


def test_a_worker_that_dies_is_named_in_one_sentence() -> None:
    with Workers(1, end, 3) as workers:
        workers.attend()
        workers.started[0].join()
        with pytest.raises(UserError, match=r"ended with status 3: repeat the command") as error:
            workers.attend()
    assert "\n" not in str(error.value)


def test_a_worker_that_is_done_is_no_failure() -> None:
    with Workers(1, end, 0) as workers:
        workers.attend()
        workers.started[0].join()
        workers.attend()
        assert workers.started[0].exitcode == 0


def test_workers_end_with_the_context(tmp_path: Path) -> None:
    with Workers(1, until_the_parent_is_gone, str(tmp_path)) as workers:
        workers.attend()
        assert appears(tmp_path / "started")
    assert workers.started[0].exitcode == -signal.SIGKILL


def test_requests_to_all_processes_of_a_run_are_for_the_parent_alone(tmp_path: Path) -> None:
    with Workers(2, until_the_parent_is_gone, str(tmp_path)) as workers:
        workers.attend()
        for process in workers.started:     # before and after its first line
            for number in ASKING:
                os.kill(process.pid, number)
        assert appears(tmp_path / "started")
        time.sleep(0.5)
        workers.attend()
        assert [process.exitcode for process in workers.started] == [None, None]


@pytest.mark.slow
def test_workers_leave_when_their_parent_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, tmp_path], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert appears(tmp_path / "started")
    parent.kill()
    parent.wait()
    assert appears(tmp_path / "left")
