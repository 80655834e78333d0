"""The processes that work on one run together: which of them this one is, how they wait for one another and agree.

`torchrun` and `accelerate launch` say it in RANK, WORLD_SIZE and LOCAL_RANK, `srun` in SLURM_PROCID, SLURM_NTASKS and
SLURM_LOCALID. The first process (rank 0) alone decides, writes and speaks.
"""

import os
import subprocess
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from typing import Any

from diffprune.runtime.errors import UserError

PATIENCE = timedelta(days=30)       # the others wait for what the first does alone, however long that takes


@dataclass(frozen=True)
class Ranks:
    """`rank` of `size` processes, the `local`-th on its machine; a process on its own is 0 of 1 and waits for nobody."""
    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> "Ranks":
        """What a launcher said; what `srun` leaves out is added to `environment`, where torch looks for it."""
        if "RANK" not in environment and launched_by_srun(environment):
            environment |= from_slurm(environment)
        rank, size, local = (int(environment.get(name, default)) for name, default in
                             (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        return cls(rank, size, local)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """(rank, size): which part of a batch is this process's."""
        return self.rank, self.size

    @cached_property
    def group(self) -> Any:
        """The connection on which processes agree and wait: on the CPU, so that no GPU waits, and with all patience."""
        import torch
        from torch import distributed
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return distributed.new_group(backend="gloo", timeout=PATIENCE)

    def highest(self, value: int) -> int:
        """The greatest `value` of all processes; each of them has to ask. UserError where one of them is gone."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed
        mine, pause = torch.tensor(int(value)), 0.0
        with self.company():
            work = distributed.all_reduce(mine, distributed.ReduceOp.MAX, self.group, async_op=True)
            while not work.is_completed():      # a plain wait would be deaf to signals, for as long as the first works alone
                time.sleep(pause)
                pause = min(pause + 1e-4, 0.1)
            work.wait()
        return int(mine)

    @contextmanager
    def company(self) -> Iterator[None]:
        """Around work that processes do together: UserError where one of them dies meanwhile."""
        try:
            yield
        except RuntimeError as error:       # what torch raises when a connection breaks, and much else
            if self.size > 1 and "connection" in str(error).lower():
                raise UserError("another process of this run is gone: its own message says why; repeat the "
                                "command") from error
            raise

    def of_first(self, value: int) -> int:
        """The first process's `value` (at least 0)."""
        return self.highest(value if self.first else 0)

    def wait(self) -> None:
        """Until every process is here."""
        self.highest(0)


@cache
def present() -> Ranks:
    """The processes of this run; a launcher's word holds as long as the process."""
    return Ranks.of(os.environ)


def leave() -> None:
    """Ends the connection, where there is one, in good order."""
    if present().size > 1 and "group" in vars(present()):
        from torch import distributed
        distributed.destroy_process_group()


def launched_by_srun(environment: MutableMapping[str, str]) -> bool:
    """Whether this is one of several tasks of `srun`; a batch script itself, alone, has a job and no step."""
    several = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 1))) > 1
    return several and "SLURM_PROCID" in environment and not ("SLURM_JOB_ID" in environment
                                                             and "SLURM_STEP_ID" not in environment)


def from_slurm(environment: MutableMapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, and where the processes meet: the job's first machine, at a port of the step's own."""
    said = {"RANK": environment["SLURM_PROCID"], "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
            "WORLD_SIZE": environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))}
    if "MASTER_ADDR" not in environment:
        said["MASTER_ADDR"] = first_machine(environment.get("SLURM_JOB_NODELIST", ""))
    if "MASTER_PORT" not in environment:
        job, step = int(environment.get("SLURM_JOB_ID", 0)), int(environment.get("SLURM_STEP_ID", 0))
        said["MASTER_PORT"] = str(20_000 + (job + 101 * step) % 12_000)     # below the ports that a system gives away
    return said


def first_machine(nodes: str) -> str:
    """The first name in a Slurm node list such as `gpu[03-07]`."""
    if not nodes:
        return "localhost"
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol does not say which machines {nodes} are: give MASTER_ADDR=<first machine> and "
                        "MASTER_PORT in the environment") from error
    return names.split()[0]
