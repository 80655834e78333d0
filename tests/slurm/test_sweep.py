"""`launcher=slurm` on a real Slurm: a sweep that waits, one that does not, one that is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    """A sweep of tiny runs whose folders lie in `folder`."""
    return subprocess.run([sys.executable, "-m", "diffprune", "-m", "launcher=slurm", "experiment=smoke", "pruner=magnitude",
                           "until=prune", "logger=none", "hydra.launcher.cpus_per_task=1", f"paths.runs={folder}/runs",
                           f"paths.cache={folder}/cache", *overrides], cwd=ROOT, capture_output=True, text=True, check=False)


def pruned(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("*/*/prune.json"))


def test_a_sweep_waits_for_its_jobs_and_tells_of_the_one_that_failed(jobs: Jobs) -> None:
    done = sweep(jobs.folder, "pruner.ratio=.3,1.5,.5")
    assert done.returncode == 1, done.stderr
    assert "pruner.ratio=1.5" in done.stderr
    assert "Traceback" not in done.stderr
    assert "submitted 3 jobs" in done.stdout
    assert len(pruned(jobs.folder)) == 2
    script = next((jobs.folder / "runs" / ".slurm").rglob("*_submission.sh")).read_text()
    assert "#SBATCH --comment='of the site'" in script
    assert "#SBATCH --cpus-per-task=1" in script
    assert "#SBATCH --signal=USR1@120" in script


def test_a_sweep_that_does_not_wait_is_done_later_as_its_dry_run_said(jobs: Jobs) -> None:
    dry = sweep(jobs.folder, "launcher.dry_run=true", "seed=0,1")
    assert dry.returncode == 0, dry.stderr
    assert [line.split()[-1] for line in dry.stdout.splitlines()[-2:]] == ["seed=0", "seed=1"]
    assert not (jobs.folder / "runs" / ".slurm").exists()
    done = sweep(jobs.folder, "launcher.wait=false", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert not pruned(jobs.folder)
    assert next((jobs.folder / "runs" / ".slurm").rglob("*_submission.sh")).read_text() in dry.stdout
    jobs.ended(done.stdout.split("jobs as ")[1].partition(":")[0])
    assert len(pruned(jobs.folder)) == 2


def test_a_refused_sweep_ends_with_what_sbatch_said(jobs: Jobs) -> None:
    done = sweep(jobs.folder, "seed=0,1", "hydra.launcher.partition=nowhere")
    direct = subprocess.run(["sbatch", "--partition=nowhere", "--wrap=true"], capture_output=True, text=True, check=False)
    assert done.returncode == direct.returncode != 0
    assert done.stderr.strip() == direct.stderr.strip()
