"""A cluster for the session, a place for each test's jobs."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffprune.runtime.slurm import array_of, sbatch_options
from experiments.running.slurm import submission
from tests.conftest import unavailable
from tests.slurm import cluster

PATIENCE = 180      # seconds until a few tiny jobs have ended, on a busy machine
COUNTING = Path(__file__).with_name("counting.py")


@pytest.fixture(scope="session")
def nodes() -> Iterator[None]:
    """Two nodes, idle; a cluster that was up before stays up."""
    before = cluster.alive("slurmctld")
    try:
        cluster.up()
    except cluster.Absent as why:
        unavailable(str(why))
    yield
    if not before:
        cluster.down()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site file for the machine that runs the tests: this Python, one thread for each process."""
    file = tmp_path_factory.mktemp("site") / "site.sh"
    file.write_text(f"sbatch_options=(--comment='of the site')\n"
                    f"prepare() {{ export PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1; }}\n")
    return file


class Jobs:
    """Submits to the cluster and asks it; what jobs write lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, *commands: list[str], cap: int | None = None, options: tuple[str, ...] = ()) -> str:
        """The number of the last array of these commands; a command alone is a job, not an array."""
        given = sbatch_options(("--cpus-per-task=1", *options), "the test")
        jobs = submission(self.folder / "logs", "cells", cap, given)
        return array_of(jobs.submit(os.execvp, [(command[0], command) for command in commands])[-1])

    def count(self, name: str, last: int) -> list[str]:
        """The command of a cell that counts."""
        return [sys.executable, str(COUNTING), str(self.folder), name, str(last)]

    def counted(self, name: str) -> list[int]:
        file = self.folder / f"{name}.counted"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def finished(self) -> list[str]:
        file = self.folder / "finished"
        return sorted(file.read_text().split()) if file.exists() else []

    def said(self, task: str = "*") -> str:
        """What the tasks wrote to their logs; `5_0` is one of them."""
        return "\n".join(log.read_text() for log in sorted(self.folder.rglob(f"{task}_0_log.out")))

    def queue(self, job: str, what: str = "%T") -> set[str]:
        """`what` squeue knows of a job's tasks; empty when the job has left the queue."""
        lines = cluster.ask("squeue", "--noheader", "--array", f"--format=%F {what}").splitlines()
        return {rest for number, _, rest in (line.partition(" ") for line in lines) if number == job}

    def wait(self, what: Callable[[], object], words: str, patience: float = PATIENCE) -> None:
        try:
            cluster.wait_for(what, words, patience)
        except RuntimeError as error:
            pytest.fail(f"{error}\nthe queue:\n{cluster.ask('squeue', '--all')}\nthe jobs said:\n{self.said()}")

    def begun(self, name: str, since: int = 0) -> None:
        self.wait(lambda: len(self.counted(name)) > since, f"{name} counts")

    def ended(self, job: str, patience: float = PATIENCE) -> None:
        self.wait(lambda: not self.queue(job), f"job {job} has ended", patience)


@pytest.fixture
def jobs(nodes: None, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A way to the cluster, for this process and those it starts."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment()[name])
    monkeypatch.setenv("DIFFPRUNE_SITE", str(site))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Jobs(tmp_path)
