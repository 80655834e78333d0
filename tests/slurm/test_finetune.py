"""Healing on a real Slurm: stopped and gone on with, and shared by two nodes."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from diffprune.tracking.wandb_tracker import ID_LENGTH
from tests.conftest import ROOT
from tests.slurm import cluster
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
TINY = ("experiment=smoke", "pruner=magnitude", "until=finetune", "device=cpu", "schedule.steps=40",
        "schedule.preview_every=0")


def overrides(folder: Path, logger: str = "none") -> list[str]:
    return [*TINY, f"logger={logger}", f"paths.runs={folder}/runs", f"paths.cache={folder}/cache"]


def weights(folder: Path) -> dict[str, bytes]:
    """{name: bits} of the healed model."""
    file, = (folder / "runs").glob("*/*/finetuned/unet/*.safetensors")
    return {name: array.tobytes() for name, array in load_file(file).items()}


def steps(folder: Path) -> int:
    """How many steps have been logged."""
    return sum(len(file.read_text().splitlines()) for file in (folder / "runs").glob("*/*/finetune/progress.jsonl"))


def test_a_run_that_is_stopped_while_it_heals_ends_as_one_that_never_was(jobs: Jobs) -> None:
    stopped, whole = jobs.folder / "stopped", jobs.folder / "whole"
    commands = [[sys.executable, "-m", "diffprune", *overrides(folder)] for folder in (stopped, whole)]
    job = jobs.submit(*commands)
    jobs.wait(lambda: steps(stopped) >= 4, "the first steps are taken")
    cluster.ask("scancel", "--signal=USR1", f"{job}_0")
    jobs.ended(job)
    assert "put back into the queue 1 times so far" in jobs.said()
    assert "going on at step" in jobs.said()
    assert weights(stopped) == weights(whole)


def shared(folder: Path, shape: tuple[str, str], logger: str) -> str:
    """The number of a job of two processes that heal together."""
    words = ["launcher=slurm", "launcher.wait=false", "hydra.launcher.cpus_per_task=1", *shape, *overrides(folder, logger)]
    done = subprocess.run([sys.executable, "-m", "diffprune", "-m", *words], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE)
    return done.stdout.split("jobs as ")[1].partition(":")[0]


def test_two_nodes_that_are_stopped_heal_as_one_that_is_not(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job goes on, in the same W&B run."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    two, one = jobs.folder / "two", jobs.folder / "one"
    stopped = shared(two, ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1"), "wandb")
    whole = shared(one, ("hydra.launcher.nodes=1", "hydra.launcher.tasks_per_node=2"), "none")
    jobs.wait(lambda: steps(two) >= 4, "the first steps are taken")
    cluster.ask("scancel", "--signal=USR1", stopped)
    for job in (stopped, whole):
        jobs.ended(job)
    said = jobs.said(stopped)
    assert "2 nodes" in said
    assert "put back into the queue 1 times so far" in said
    assert "going on at step" in said
    assert weights(two) == weights(one)
    logged = [folder.name for folder in (two / "runs" / "wandb").glob("offline-run-*")]
    run, = (two / "runs" / "digits").iterdir()
    assert [name.partition("-")[2].split("-", 2)[2] for name in logged] == [run.name[-ID_LENGTH:]] * 2
