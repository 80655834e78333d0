"""Array jobs on a real Slurm: whatever happens to a job, in the end every cell has been done exactly once."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.slurm import cluster
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
TASK = "%F_%K"      # what squeue prints of an array task


def task(job: str, index: int = 0) -> str:
    return f"{job}_{index}"


def test_a_failing_cell_does_not_hinder_the_good_ones_nor_comes_again(jobs: Jobs) -> None:
    job = jobs.submit(jobs.count("a", 3), ["bash", "-c", "echo out of luck >&2; exit 3"], jobs.count("b", 3), cap=2)
    jobs.ended(job)
    assert jobs.finished() == ["a", "b"]
    assert jobs.said().count("out of luck") == 1


def test_a_job_near_its_limit_keeps_its_state_and_goes_on_under_the_same_number(jobs: Jobs) -> None:
    job = jobs.submit(jobs.count("a", 40), jobs.count("b", 3))
    jobs.begun("a", since=5)
    cluster.ask("scancel", "--signal=USR1", task(job))      # what Slurm does before the limit
    jobs.ended(job)
    assert "by SIGUSR1" in jobs.said()
    assert "put back into the queue 1 times so far" in jobs.said()
    assert jobs.counted("a") == list(range(40))
    assert jobs.finished() == ["a", "b"]


def test_the_last_task_of_an_array_goes_on_without_the_others(jobs: Jobs) -> None:
    """Its job number is the array's own: asked to stop while another runs, and again when that has ended."""
    job = jobs.submit(jobs.count("a", 100), jobs.count("b", 100))
    for name in "ab":
        jobs.begun(name)
    for others in ([], ["a"]):
        jobs.wait(lambda others=others: jobs.finished() == others, f"{others} have ended")
        jobs.begun("b", since=len(jobs.counted("b")))
        cluster.ask("scancel", "--signal=USR1", task(job, 1))
    jobs.ended(job)
    assert "put back into the queue 2 times so far" in jobs.said(task(job, 1))
    assert "put back into the queue 1 times so far" not in jobs.said(task(job))
    assert jobs.counted("a") == jobs.counted("b") == list(range(100))
    assert jobs.finished() == ["a", "b"]


def test_a_program_without_a_state_is_repeated_after_the_limit(jobs: Jobs) -> None:
    first = jobs.folder / "first"
    job = jobs.submit(["bash", "-c", f"if [ -e {first} ]; then echo a >> {jobs.folder}/finished; "
                                     f"else touch {first}; exec tail -f /dev/null; fi"])
    jobs.wait(first.exists, "it runs")
    cluster.ask("scancel", "--signal=USR1", job)
    jobs.ended(job)
    assert jobs.finished() == ["a"]


def test_a_cancelled_job_stays_away_and_a_new_one_goes_on(jobs: Jobs) -> None:
    job = jobs.submit(jobs.count("a", 60), jobs.count("b", 3))
    jobs.begun("a", since=3)
    cluster.ask("scancel", task(job))
    jobs.ended(job)
    kept = len(jobs.counted("a"))
    assert "by SIGTERM" in jobs.said()
    assert "back into the queue:" not in jobs.said()
    assert jobs.finished() == ["b"]
    assert kept < 60
    jobs.ended(jobs.submit(jobs.count("a", 60)))
    assert jobs.counted("a") == list(range(60))
    assert jobs.finished() == ["a", "b"]


def test_a_job_that_makes_room_for_an_urgent_one_goes_on_afterwards(jobs: Jobs) -> None:
    job = jobs.submit(*(jobs.count(name, 200) for name in "ab"), options=("--nodes=1", "--exclusive"))
    for name in "ab":
        jobs.begun(name)
    urgent = jobs.submit(jobs.count("urgent", 3), options=("--partition=urgent", "--exclusive"))
    jobs.ended(urgent)
    jobs.ended(job)
    assert "by SIGTERM" in jobs.said()
    assert "put back into the queue 1 times so far" in jobs.said()
    assert jobs.finished() == ["a", "b", "urgent"]
    assert jobs.counted("a") == jobs.counted("b") == list(range(200))


def test_a_lost_node_costs_its_job_a_restart_and_comes_back(jobs: Jobs) -> None:
    job = jobs.submit(*(jobs.count(name, 60) for name in "ab"), options=("--exclusive",))
    for name in "ab":
        jobs.begun(name)
    cluster.lose_node("n2")
    jobs.wait(lambda: cluster.states()["n2"].startswith("down"), "n2 is down")
    cluster.start_node("n2")
    jobs.wait(lambda: not cluster.states()["n2"].startswith("down"), "n2 is back")
    jobs.ended(job)
    assert jobs.finished() == ["a", "b"]
    assert jobs.said().count("put back into the queue 1 times so far") == 1
    jobs.ended(jobs.submit(["bash", "-c", f"echo c >> {jobs.folder}/finished"], options=("--nodelist=n2",)))
    assert jobs.finished() == ["a", "b", "c"]


def test_what_sbatch_says_reaches_the_user_with_its_status(jobs: Jobs) -> None:
    done = subprocess.run([sys.executable, "-m", "experiments", "run", "table1_digits", "--seeds", "0", "launcher=slurm",
                           f"paths.runs={jobs.folder}/runs", "--partition=nowhere"], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    direct = subprocess.run(["sbatch", "--partition=nowhere", "--wrap=true"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (direct.returncode, direct.stderr)
    assert done.returncode != 0
    assert "invalid partition" in done.stderr
