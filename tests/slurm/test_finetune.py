"""Healing on a real Slurm: stopped and gone on with, and shared by two nodes."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.conftest import ROOT
from tests.slurm import cluster
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
TINY = ("experiment=smoke", "pruner=magnitude", "until=finetune", "logger=none", "device=cpu", "schedule.preview_every=0")


def overrides(folder: Path, *more: str) -> list[str]:
    return [*TINY, f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", *more]


def weights(folder: Path) -> dict[str, bytes]:
    """{name: bits} of the healed model."""
    file, = (folder / "runs").glob("*/*/finetuned/unet/*.safetensors")
    return {name: array.tobytes() for name, array in load_file(file).items()}


def steps(folder: Path) -> int:
    """How many steps have been logged."""
    return sum(len(file.read_text().splitlines()) for file in (folder / "runs").glob("*/*/finetune/progress.jsonl"))


def test_a_run_that_is_stopped_while_it_heals_ends_as_one_that_never_was(jobs: Jobs) -> None:
    stopped, whole = jobs.folder / "stopped", jobs.folder / "whole"
    commands = [[sys.executable, "-m", "diffprune", *overrides(folder, "schedule.steps=40")] for folder in (stopped, whole)]
    job = jobs.submit(*commands)
    jobs.wait(lambda: steps(stopped) >= 4, "the first steps are taken")
    cluster.ask("scancel", "--signal=USR1", "--batch", f"{job}_0")
    jobs.ended(job)
    assert "put back into the queue 1 times so far" in jobs.said()
    assert "going on at step" in jobs.said()
    assert weights(stopped) == weights(whole)


@pytest.mark.skipif(find_spec("diffprune.ranks") is None, reason="several processes cannot share a run's healing yet")
def test_two_nodes_heal_as_one_does(jobs: Jobs) -> None:
    started = []
    for name, shape in (("two", ("--nodes=2", "--ntasks-per-node=1")), ("one", ("--nodes=1", "--ntasks-per-node=2"))):
        words = [*shape, "--parsable", "--cpus-per-task=1", f"--output={jobs.folder}/{name}.log", "slurm/finetune.sh"]
        said = subprocess.run([ROOT / "slurm" / "submit.sh", *words, *overrides(jobs.folder / name)], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        started.append(said.strip())
    for job in started:
        jobs.ended(job)
    assert "2 nodes" in (jobs.folder / "two.log").read_text()
    assert weights(jobs.folder / "two") == weights(jobs.folder / "one")
