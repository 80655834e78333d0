"""`launcher=slurm` on a real Slurm: a sweep that waits, one that does not, one that is refused, one that is left alone."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffprune.runtime.interrupt import CTRL_C
from diffprune.runtime.slurm_queue import states
from tests.conftest import ROOT
from tests.slurm import cluster
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def command(folder: Path, *overrides: str) -> list[str]:
    """A sweep of tiny runs whose folders lie in `folder`."""
    return [sys.executable, "-m", "diffprune", "-m", "launcher=slurm", "experiment=smoke", "pruner=magnitude", "until=prune",
            "logger=none", "--cpus-per-task=1", f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", *overrides]


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *overrides), cwd=ROOT, capture_output=True, text=True, check=False)


def pruned(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*/*/prune.json"))


def array(said: str) -> str:
    """The number of the array that a sweep has submitted."""
    return said.split("jobs as ")[1].partition(":")[0]


def test_a_sweep_waits_for_its_jobs_and_the_one_that_fails_has_failed_for_slurm_too(jobs: Jobs) -> None:
    """The same command leaves out what is done."""
    words = ["pruner=magnitude,taylor,random", "pruner.calibration_batch=9999"]
    done = sweep(jobs.folder, *words)
    assert done.returncode == 1, done.stderr
    assert "1 job of the sweep failed:" in done.stderr
    assert "pruner.calibration_batch=9999" in done.stderr
    assert "Traceback" not in done.stderr
    assert "submitted 3 jobs" in done.stdout
    assert len(pruned(jobs.folder)) == 2
    jobs.ended(array(done.stdout))
    ended = {number.partition("_")[2]: state for number, state in states(array(done.stdout)).items()}
    assert ended == {"0": "COMPLETED", "1": "FAILED", "2": "COMPLETED"}
    script = next((jobs.folder / "runs" / ".slurm").rglob("*_submission.sh")).read_text()
    assert "#SBATCH --comment='of the site'" in script
    assert "#SBATCH --cpus-per-task=1" in script
    assert "#SBATCH --signal=USR1@120" in script
    again = sweep(jobs.folder, "launcher.dry_run=true", *words)
    assert "leaves out 2 done of 3 runs" in again.stdout
    assert again.stdout.count("\njob ") == 1


def test_a_sweep_with_a_run_that_cannot_be_submits_nothing(jobs: Jobs) -> None:
    for words, message in ((["pruner.ratio=.3,1.5,.5"], "pruner.ratio=1.5 is outside its range"),
                           (["seed=0,1", "evaluate.reference=/nosuch"], "evaluate.reference=/nosuch does not exist")):
        done = sweep(jobs.folder, *words)
        assert done.returncode == 1
        assert message in done.stderr
        assert "nothing was submitted" in done.stderr
    assert not (jobs.folder / "runs" / ".slurm").exists()


def test_who_stops_waiting_is_told_what_goes_on_and_repeats_none_of_it(jobs: Jobs) -> None:
    """In whatever order the options are given."""
    waiting = subprocess.Popen(command(jobs.folder, "seed=0,1", "pruner.ratio=.5", "--begin=now+1hour"), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert waiting.stdout is not None
    number = array(waiting.stdout.readline())
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate()
    assert waiting.returncode == CTRL_C
    assert f"2 jobs go on without this command: scancel {number} ends them" in said
    again = sweep(jobs.folder, "pruner.ratio=.5", "seed=1,0,2", "launcher.dry_run=true")
    assert "leaves out 2 in the queue of 3 runs" in again.stdout
    cluster.ask("scancel", number)


def test_a_sweep_that_does_not_wait_is_done_later_as_its_dry_run_said(jobs: Jobs) -> None:
    dry = sweep(jobs.folder, "launcher.dry_run=true", "seed=0,1")
    assert dry.returncode == 0, dry.stderr
    assert ["seed=0" in dry.stdout.splitlines()[-2], "seed=1" in dry.stdout.splitlines()[-1]] == [True, True]
    assert not (jobs.folder / "runs" / ".slurm").exists()
    done = sweep(jobs.folder, "launcher.wait=false", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert not pruned(jobs.folder)
    assert next((jobs.folder / "runs" / ".slurm").rglob("*_submission.sh")).read_text() in dry.stdout
    jobs.ended(array(done.stdout))
    assert len(pruned(jobs.folder)) == 2


def test_a_refused_sweep_ends_with_what_sbatch_said(jobs: Jobs) -> None:
    done = sweep(jobs.folder, "seed=0,1", "--partition=nowhere")
    direct = subprocess.run(["sbatch", "--partition=nowhere", "--wrap=true"], capture_output=True, text=True, check=False)
    assert done.returncode == direct.returncode != 0
    assert done.stderr.strip() == direct.stderr.strip()
