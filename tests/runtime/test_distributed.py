"""Which of a run's processes this one is."""

from pathlib import Path

import pytest

from diffprune.runtime.distributed import Ranks
from diffprune.runtime.errors import UserError

SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


def test_a_process_on_its_own_waits_for_nobody() -> None:
    alone = Ranks.of({})
    assert alone.part == (0, 1)
    assert alone.first
    assert alone.highest(7) == alone.of_first(7) == 7
    alone.wait()


def test_torchruns_word_counts() -> None:
    ranks = Ranks.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"} | SRUN)
    assert (ranks.part, ranks.local, ranks.first) == ((5, 8), 1, False)


def test_sruns_word_counts_where_there_is_no_other() -> None:
    environment = dict(SRUN)
    ranks = Ranks.of(environment)
    assert (ranks.part, ranks.local) == ((3, 4), 1)
    assert environment["RANK"] == "3"
    assert environment["WORLD_SIZE"] == "4"
    assert environment["MASTER_ADDR"] == "localhost"


def test_the_tasks_of_a_step_count_not_those_of_the_job() -> None:
    assert Ranks.of(SRUN | {"SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}).part == (3, 8)
    assert Ranks.of(SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}).part == (0, 1)


def test_a_batch_script_is_one_process_whatever_its_job_may_start() -> None:
    assert Ranks.of(SRUN | {"SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}).part == (0, 1)


def test_processes_meet_on_the_first_machine_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[03-04]" ] && printf "gpu03\\ngpu04\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    step = SRUN | {"SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}
    Ranks.of(step)
    assert step["MASTER_ADDR"] == "gpu03"
    assert 20_000 <= int(step["MASTER_PORT"]) < 32_000
    other = SRUN | {"SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "3"}
    Ranks.of(other)
    assert other["MASTER_PORT"] != step["MASTER_PORT"]


def test_a_given_meeting_place_is_left_alone() -> None:
    step = SRUN | {"SLURM_JOB_NODELIST": "gpu[03-04]", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}
    Ranks.of(step)
    assert (step["MASTER_ADDR"], step["MASTER_PORT"]) == ("here", "1234")


def test_a_machine_list_that_nobody_can_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="MASTER_ADDR"):
        Ranks.of(SRUN | {"SLURM_JOB_NODELIST": "gpu[03-04]"})
