"""A paper table on a real Slurm, by the commands that a person gives; `status` tells the truth all the way."""

import json
import re
from pathlib import Path

import pytest

from diffprune.runs.run import Run
from experiments.commands import main
from experiments.planning.cells import plan
from tests.slurm import cluster
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
DENSE, TORN = 0, 1      # a cell that is asked to stop, one that fails


class Table:
    """Four cells of `table1_digits`, and every state in which each was seen."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture) -> None:
        options = ["pruner=random", "until=prune", "logger=none", "device=cpu", f"paths.runs={folder}/runs",
                   f"paths.cache={folder}/cache"]
        self.words, self.capsys = ["table1_digits", "--seeds", "0,1,2", *options], capsys
        self.cells = plan(["table1_digits"], options, (0, 1, 2)).cells
        self.seen: list[list[str]] = [[] for _ in self.cells]

    def status(self) -> list[str]:
        """What the command says; it composes the table for each answer."""
        assert main(["status", *self.words, "--json"]) == 0
        return [cell["state"] for cell in json.loads(self.capsys.readouterr().out)]

    def look(self) -> list[str]:
        """What the command would say, cheap enough to ask all the time."""
        now = [cell.status.state for cell in self.cells]
        for states, state in zip(self.seen, now, strict=True):
            if state not in states[-1:]:
                states.append(state)
        return now

    def submit(self, command: str, *options: str) -> str:
        """What the command says."""
        assert main([command, *self.words, "launcher=slurm", "--cap=2", "--cpus-per-task=1", *options]) == 0
        return self.capsys.readouterr().out.strip()


def made(run: Run) -> dict[str, int]:
    """When the files of the run's stages were made, in nanoseconds."""
    return {file.name: file.stat().st_mtime_ns for file in (run.scores, run.prune_report, run.status)}


def number(told: str, jobs: int) -> str:
    """The array's, from what the command says of so many jobs."""
    found = re.match(rf"submitted {jobs} jobs as (\d+): their output is in .*\nsubmitted {jobs} cells$", told)
    assert found, told
    return found[1]


def signalled(job: str) -> bool:
    """Whether Slurm took the request to stop; while the job's script is only about to start it refuses."""
    try:
        cluster.ask("scancel", "--signal=USR1", job)
    except RuntimeError:
        return False
    return True


def test_cells_of_one_model_hold_no_node_while_it_is_made(jobs: Jobs, capsys: pytest.CaptureFixture) -> None:
    """Nor while the dense model's images are drawn: no cell says that it waits for another. Two cells are in each job."""
    words = ["iso_compute_digits", "--seeds", "0", "schedule.steps=2", "evaluate.images=16", "until=sample", "logger=none",
             "device=cpu", f"paths.runs={jobs.folder}/runs", f"paths.cache={jobs.folder}/cache"]
    assert main(["run", *words, "launcher=slurm", "--pack=2", "--cpus-per-task=1"]) == 0
    arrays = re.findall(r"jobs as (\d+):", capsys.readouterr().out)
    assert len(arrays) > 2
    jobs.wait(lambda: jobs.queue(arrays[-1], "%T %r") == {"PENDING Dependency"}, "Slurm holds the last ones back")
    for array in arrays:
        jobs.ended(array)
    assert main(["status", *words]) == 0
    assert capsys.readouterr().out.endswith("\n8 done\n")
    logs = list((jobs.folder / "runs" / ".slurm").glob("*_log.out"))
    said = [log.read_text() for log in logs]
    assert len(logs) == 5       # dense 2, the model's maker 1, its sharers 2
    assert not [text for text in said if "waiting for" in text]
    assert sum(text.count("finetune …") for text in said) == 1
    assert sum(text.count("takes the model of") for text in said) == 3


def test_a_job_that_dies_before_python_has_failed_and_one_that_waits_is_cancelled(
        jobs: Jobs, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dying one writes why into its log, and `retry` submits it again."""
    table, dying = Table(jobs.folder, capsys), jobs.folder / "dying.sh"
    dying.write_text("sbatch_options=()\nprepare() { echo no such module; exit 1; }\n")
    with monkeypatch.context() as site:
        site.setenv("DIFFPRUNE_SITE", str(dying))
        jobs.ended(number(table.submit("run"), 4))
    assert table.status() == ["failed"] * 4
    main(["logs", *table.words, "--cell", str(TORN)])
    assert "no such module" in capsys.readouterr().out
    job = number(table.submit("retry", "--begin=now+1hour"), 4)
    assert table.status() == ["queued"] * 4
    main(["cancel", *table.words, "--cell", str(DENSE)])
    assert capsys.readouterr().out.startswith(f"cancelled {job}_0: ")
    assert table.status() == ["stopped", *["queued"] * 3]
    main(["cancel", *table.words])
    jobs.ended(job)


def test_a_table_is_submitted_watched_and_retried(jobs: Jobs, capsys: pytest.CaptureFixture) -> None:
    """One cell fails for a file that is torn, one is asked to stop and goes on; in the end each has been done once."""
    table = Table(jobs.folder, capsys)
    assert table.status() == table.look() == ["waiting"] * 4
    torn = table.cells[TORN].run.scores
    torn.parent.mkdir(parents=True)
    torn.write_text("torn")
    job = number(table.submit("run"), 4)
    again = table.submit("run")      # a cell may be over in a moment, and is then no longer in the queue
    assert re.fullmatch(r"submitted 0 cells, [1-4] are in the queue already", again)
    jobs.wait(lambda: table.look()[DENSE] == "running", "the first cell runs")
    jobs.wait(lambda: signalled(f"{job}_{DENSE}"), "Slurm passes the signal on")
    jobs.wait(lambda: table.look()[DENSE] == "stopped", "it keeps its state")
    assert table.status()[DENSE] == "queued"        # its job goes back into the queue by itself
    jobs.wait(lambda: table.look() == ["done", "failed", "done", "done"], "all have had their turn")
    jobs.ended(job)
    assert table.status() == ["done", "failed", "done", "done"]
    assert table.seen[DENSE][:2] == ["waiting", "running"]
    shown = [[state for state in states if state != "running"] for states in table.seen]    # which may be over in a moment
    assert shown == [["waiting", "stopped", "done"], ["waiting", "failed"], ["waiting", "done"], ["waiting", "done"]]
    assert table.cells[TORN].status.reason.partition("(")[0].endswith("is no readable scores file ")
    assert "put back into the queue 1 times so far" in jobs.said(f"{job}_{DENSE}")
    good = [cell.run for cell in table.cells if cell is not table.cells[TORN]]
    before = [made(run) for run in good]
    torn.unlink()
    jobs.ended(number(table.submit("retry"), 1))
    assert table.status() == ["done"] * 4
    assert [made(run) for run in good] == before
