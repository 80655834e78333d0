"""Which of a run's processes this one is."""

import os
import signal
import socket
import threading
import time

import pytest
import torch

from diffprune.runtime.distributed import Ranks
from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import Interrupt, Interrupted

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


@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"},
                                         {"RANK": "-1", "WORLD_SIZE": "2"}, {"RANK": "first", "WORLD_SIZE": "2"},
                                         {"RANK": "0", "WORLD_SIZE": "0"}], ids=str)
def test_an_environment_that_no_launcher_sets_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"the environment has RANK=|the environment has WORLD_SIZE=2, which") as refusal:
        Ranks.from_environment(dict(environment))
    assert "\n" not in str(refusal.value)


def test_ranks_that_have_no_address_to_meet_at_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"process 0 of 2 cannot connect to the others: start .*MASTER_ADDR expected"):
        Ranks(0, 2).barrier()


@pytest.mark.slow
def test_a_rank_that_waits_for_another_hears_a_request_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    with pytest.raises(Interrupted), Interrupt():
        Ranks(0, 2).barrier()
    assert time.monotonic() < start + 5
