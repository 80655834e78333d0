"""`status`, `logs` and `cancel` tell the truth of every cell, whether its job waits, died before Python or is at work."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus, put
from diffprune.runtime import slurm_queue
from diffprune.runtime.slurm_queue import Submitted
from experiments import watching
from experiments.commands import main
from experiments.planning.cells import Cell, plan
from experiments.running.state import states_of, training

WORDS = ["--seeds", "0", "pruner=random"]
Slurm = Callable[..., None]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return ["table1_digits", f"paths.runs={tmp_path}/runs", *WORDS]


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """dense and random, as it is made by every row of criteria."""
    return plan(["table1_digits"], [f"paths.runs={tmp_path}/runs", *WORDS[2:]], (0,)).cells


@pytest.fixture
def slurm(cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Submits both cells as the array 7; Slurm then answers with these lines, by its command."""
    Submitted([[cell.key] for cell in cells], "7", at=1000.0).write(tmp_path / "runs" / ".slurm" / "table-1.json")

    def answers(**lines: str | None) -> None:
        monkeypatch.setattr(slurm_queue, "ask", lambda command, *_: lines.get(command))
    return answers


def test_a_job_that_waits_has_its_number_and_slurms_reason(words: list[str], slurm: Slurm, capsys) -> None:
    slurm(squeue="7_0|PENDING|PartitionTimeLimit|1:00|table-1\n7_1|RUNNING|None|59:00|table-1\n")
    assert main(["status", *words]) == 0
    said = capsys.readouterr().out
    assert "   0  queued    dense, seed 0\n                job 7_0 PENDING (PartitionTimeLimit)\n" in said
    assert "job 7_1 RUNNING, 59:00 to its limit" in said
    assert said.endswith("2 queued\n")


@pytest.mark.parametrize(("told", "state", "reason"), [
    ({"sacct": "7_0|FAILED\n7_1|CANCELLED by 0\n"}, ["failed", "stopped"], "before the run began (FAILED)"),
    ({"scontrol": "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobState=NODE_FAIL Reason=None\n"}, ["failed", "stopped"],
     "before the run began (NODE_FAIL)"),
    ({"scontrol": "JobId=7 ArrayJobId=7 ArrayTaskId=0-1 JobState=CANCELLED Reason=None\n"}, ["stopped", "stopped"],
     "before the run began (CANCELLED)"),
    ({}, ["failed", "stopped"], "before the run began (Slurm does not know it any more)")])
def test_a_job_that_ended_before_python_has_failed(cells: list[Cell], slurm: Slurm, told: dict[str, str], state: list[str],
                                                  reason: str) -> None:
    slurm(squeue="", **told)
    log = cells[0].folder.parent.parent / ".slurm" / "7_0_0_log.out"
    log.write_text("no such module")
    now = states_of(cells)
    assert [one.state for one in now] == state
    assert now[0].reason.endswith(reason)


def test_a_run_that_has_begun_says_itself_how_it_stands(cells: list[Cell], slurm: Slurm) -> None:
    slurm(squeue="")
    put(cells[0].run, RunStatus("failed", reason="out of luck"))
    (one, _) = states_of(cells)
    assert (one.state, one.reason) == ("failed", "out of luck")
    slurm(squeue=None)      # which says nothing of the other cell
    assert [one.state for one in states_of(cells)] == ["failed", "waiting"]


def test_retry_submits_what_died_before_python(words: list[str], slurm: Slurm, capsys) -> None:
    slurm(squeue="")
    assert main(["retry", *words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_run_at_work_tells_its_step_and_the_time_left(cells: list[Cell], slurm: Slurm, tmp_path: Path) -> None:
    slurm(squeue="7_1|RUNNING|None|59:00|table-1\n")
    run = cells[1].run
    put(run, RunStatus("running", host="elsewhere"))
    run.finetune.mkdir()
    run.progress.write_text('{"step": 100, "seconds": 50.0}\n{"step": 150, "seconds": 60.0}\n{"step": 15')
    now = states_of(cells)[1]
    assert (now.step, now.steps) == (150, cells[1].steps)
    assert now.seconds_left == pytest.approx(60 / 150 * (cells[1].steps - 150))
    assert f"on elsewhere, step 150 of {cells[1].steps}, about " in now.text()
    assert now.record()["job"] == "7_1"
    assert training(Run(tmp_path / "none"), 10) == (0, None)
    assert ProgressLog.last(tmp_path / "none") is None


def test_folders_of_runs_are_watched_with_what_has_not_begun(cells: list[Cell], slurm: Slurm, tmp_path: Path,
                                                            capsys) -> None:
    slurm(squeue="7_0|PENDING|Priority|1:00|table-1\n")
    put(cells[1].run, RunStatus("failed", reason="out of luck"))
    for folder in (tmp_path / "runs", tmp_path / "runs" / "digits"):
        assert main(["status", str(folder), "--json"]) == 0
        told = {one["title"]: one["state"] for one in json.loads(capsys.readouterr().out)}
        assert told == {cells[0].run.name: "queued", cells[1].run.name: "failed"}
    assert main(["status", str(cells[1].folder)]) == 0
    assert capsys.readouterr().out.endswith("1 failed\n")
    with pytest.raises(SystemExit, match="stands without tables and options"):
        main(["status", str(tmp_path / "runs"), "table1_digits"])


def test_watching_ends_when_nothing_is_at_work(words: list[str], slurm: Slurm, capsys, monkeypatch) -> None:
    slurm(squeue="7_0|PENDING|Priority|1:00|table-1\n")
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=lambda _: slurm(squeue="")))
    assert main(["status", *words, "--watch"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == ["1 queued, 1 stopped", "2 stopped"]


def test_the_log_of_a_cell_is_that_of_its_job_or_its_own(words: list[str], cells: list[Cell], slurm: Slurm, tmp_path: Path,
                                                        capsys) -> None:
    slurm(squeue="")
    with pytest.raises(SystemExit, match="these are 2 cells: choose one with --cell I, 0 to 1"):
        main(["logs", *words])
    with pytest.raises(SystemExit, match="dense, seed 0 has written nothing yet: it is stopped"):
        main(["logs", *words, "--cell", "0"])
    for number, file in enumerate((tmp_path / "runs" / ".slurm" / "7_0_0_log.out", cells[1].run.log)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"written by {number}\n")
        assert main(["logs", *words, "--cell", str(number)]) == 0
        assert capsys.readouterr().out == f"written by {number}\n"


def test_cells_are_cancelled_by_their_jobs(words: list[str], slurm: Slurm, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(squeue="7_0|PENDING|Priority|1:00|table-1\n", scancel="")
    assert main(["cancel", *words]) == 0
    assert capsys.readouterr().out.startswith("cancelled 7_0: ")
    assert main(["cancel", *words, "--cell", "1"]) == 0
    assert capsys.readouterr().out == "none of these cells is in Slurm's queue\n"
    slurm(squeue="7_0|PENDING|Priority|1:00|table-1\n")
    with pytest.raises(SystemExit, match="scancel 7_0 failed"):
        main(["cancel", *words])
