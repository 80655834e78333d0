"""Which of a run's processes this one is."""

import pytest
import torch

from diffprune.runtime.distributed import Ranks

SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


def shard(ranks: Ranks) -> tuple[int, int]:
    return ranks.rank, ranks.world_size


def test_a_process_on_its_own_waits_for_nobody() -> None:
    alone = Ranks.from_environment({})
    assert shard(alone) == (0, 1)
    assert alone.is_rank0
    assert alone.all_reduce_max(7) == alone.broadcast_from_rank0(7) == 7
    assert alone.all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
    alone.barrier()


def test_the_variables_of_torchrun_come_first() -> None:
    ranks = Ranks.from_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"} | SRUN)
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.is_rank0) == (5, 8, 1, False)


def test_the_variables_of_srun_count_where_there_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    environment = dict(SRUN)
    ranks = Ranks.from_environment(environment)
    assert (ranks.rank, ranks.world_size, ranks.local_rank) == (3, 4, 1)
    assert environment["RANK"] == "3"
    assert environment["WORLD_SIZE"] == "4"
    assert environment["MASTER_ADDR"] == "localhost"


def test_the_tasks_of_a_step_count_not_those_of_the_job() -> None:
    step = SRUN | {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}
    assert shard(Ranks.from_environment(step | {"SLURM_STEP_NUM_TASKS": "8"})) == (3, 8)
    assert shard(Ranks.from_environment(step | {"SLURM_STEP_NUM_TASKS": "1"})) == (0, 1)


def test_a_batch_script_is_one_process_whatever_its_job_may_start() -> None:
    assert shard(Ranks.from_environment(SRUN | {"SLURM_PROCID": "0", "SLURM_JOB_ID": "1"})) == (0, 1)


def test_ranks_connect_on_the_first_machine_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[03-04,07],login1")
    step = SRUN | {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}
    Ranks.from_environment(step)
    assert step["MASTER_ADDR"] == "gpu03"
    assert 20_000 <= int(step["MASTER_PORT"]) < 32_000
    other = SRUN | {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "3"}
    Ranks.from_environment(other)
    assert other["MASTER_PORT"] != step["MASTER_PORT"]


def test_a_given_address_is_left_alone() -> None:
    step = SRUN | {"MASTER_ADDR": "here", "MASTER_PORT": "1234"}
    Ranks.from_environment(step)
    assert (step["MASTER_ADDR"], step["MASTER_PORT"]) == ("here", "1234")
