"""The processes (ranks) of one run: which of them this one is, and how they wait for one another and agree.

`torchrun` and other launchers of PyTorch set RANK, WORLD_SIZE and LOCAL_RANK, `srun` sets SLURM_PROCID, SLURM_NTASKS and
SLURM_LOCALID. Rank 0 alone decides, writes and logs.
"""

import os
import threading
import time
from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import Interrupted

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

TIMEOUT = timedelta(days=30)        # the other ranks wait for what rank 0 does alone, however long that takes
STOP = "stop"                       # the store's key of a request to stop: "signal's number, rank"
POLL = 0.2                          # seconds between looks at it
PATIENCE = 5.0                      # seconds for the other ranks to have seen it


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world_size`, and number `local_rank` on its machine; by default it is alone. The
    methods that communicate must be called by every rank; for a process that is alone they do nothing."""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    is_rank0 = property(lambda self: self.rank == 0)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> "Ranks":
        """Reads the launcher's variables; what `srun` leaves out is added to `environment`, where torch reads it. Raises
        UserError where they contradict each other."""
        if "RANK" not in environment:
            environment.update(from_slurm(environment))
        given = {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in environment}
        try:
            rank, world_size, local_rank = (int(given.get(name, default))
                                            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
            fits = 0 <= rank < world_size and ("RANK" in given) == ("WORLD_SIZE" in given)
        except ValueError:
            fits = False
        if not fits:
            listed = " ".join(f"{name}={value}" for name, value in given.items())
            raise UserError(f"the environment has {listed}, which no launcher sets: give RANK (from 0) and WORLD_SIZE "
                            "(above every RANK) to each process of a run, or unset them for a run of one process")
        return cls(rank, world_size, local_rank)

    @cached_property
    def connection(self) -> tuple["Store", Any]:
        """The ranks' common store, and the process group of barriers and agreement, on the CPU so that no GPU waits; its
        first use connects the ranks. UserError where they do not all come."""
        import torch
        from torch import distributed

        def connect() -> tuple["Store", Any]:
            store, *_ = next(distributed.rendezvous("env://"))
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=store,
                                           rank=self.rank, world_size=self.world_size)
            return store, distributed.new_group(backend="gloo", timeout=TIMEOUT)

        try:        # in another thread, since Python handles no signals in one that waits in C++
            connection = ThreadPool(1).apply_async(connect).get()
        except (RuntimeError, ValueError) as error:     # no address, a port in use, nobody there in half an hour
            raise UserError(f"process {self.rank} of {self.world_size} cannot connect to the others: start all together, "
                            f"with one MASTER_ADDR and MASTER_PORT ({str(error).splitlines()[0]})") from error
        threading.Thread(target=self.hear_others, args=connection[:1]).start()
        return connection

    def hear_others(self, store: "Store") -> None:
        """Asks this process to stop when another rank was asked, as long as both are at work."""
        from torch import distributed
        with suppress(RuntimeError):        # rank 0, which keeps the store, has gone
            while threading.main_thread().is_alive() and distributed.is_initialized():
                if store.check([STOP]):
                    number, rank = map(int, store.get(STOP).split())
                    if rank != self.rank:
                        os.kill(os.getpid(), number)
                    break
                time.sleep(POLL)
            store.set(f"{STOP}/{self.rank}", "")

    def stop_others(self, number: int) -> None:
        """Asks all other ranks to stop, as the signal `number` has asked this one."""
        if self.connected:
            (store, _), until = self.connection, time.monotonic() + PATIENCE
            with suppress(RuntimeError):
                store.set(STOP, f"{number} {self.rank}")
                store.set(f"{STOP}/{self.rank}", "")        # the other thread may end before it has
                # The store ends with rank 0.
                heard = [f"{STOP}/{rank}" for rank in range(1, self.world_size)]
                while self.is_rank0 and not store.check(heard) and time.monotonic() < until:
                    time.sleep(POLL)

    connected = property(lambda self: "connection" in vars(self))

    def barrier(self) -> None:
        """Waits until every rank has come here."""
        self.all_reduce_max(0)

    def broadcast_from_rank0(self, value: int) -> int:
        """Rank 0's `value` (at least 0), in every rank."""
        return self.all_reduce_max(value if self.is_rank0 else 0)

    def all_reduce_max(self, value: int) -> int:
        """The greatest `value` of all ranks; raises UserError where one of them has ended."""
        if self.world_size == 1:
            return value
        import torch
        from torch import distributed
        greatest, pause = torch.tensor(int(value)), 0.0
        with self.lost_rank_as_user_error():
            work = distributed.all_reduce(greatest, distributed.ReduceOp.MAX, self.connection[1], async_op=True)
            assert work is not None
            while not work.is_completed():      # `work.wait` would not let Python handle signals for as long as it takes
                time.sleep(pause)
                pause = min(pause + 1e-4, 0.1)
            work.wait()
        return int(greatest)

    def all_reduce_sum(self, tensor: "Tensor") -> "Tensor":
        """The sum of all ranks' `tensor`, on its device."""
        if self.world_size > 1:
            from torch import distributed
            distributed.all_reduce(tensor := tensor.clone())
        return tensor

    @contextmanager
    def lost_rank_as_user_error(self) -> Generator[None]:
        """Around work that ranks do together: raises UserError where one of them ends meanwhile, Interrupted where it was
        asked to."""
        try:
            yield
        except RuntimeError as error:       # what torch raises when a connection breaks, and for much else
            if self.connected and "connection" in str(error).lower():
                store, _ = self.connection
                with suppress(RuntimeError):
                    if store.check([STOP]):
                        raise Interrupted(int(store.get(STOP).split()[0])) from error
                raise UserError("another process of this run is gone: its own message says why; repeat the "
                                "command") from error
            raise


@cache
def current_ranks() -> Ranks:
    """The ranks of this run, which a launcher fixes for the life of the process."""
    return Ranks.from_environment(os.environ)


def disconnect() -> None:
    """Closes the connection to the other ranks, where there is one, when all have come here or gone."""
    if current_ranks().connected:
        from torch import distributed
        with suppress(UserError):       # nothing is left to do together
            current_ranks().barrier()
        distributed.destroy_process_group()


def from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a launcher, for one of several tasks of `srun`; none for another process. Ranks connect on the job's
    first machine, at a port of the step's own, unless MASTER_ADDR and MASTER_PORT are set."""
    world_size = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    is_batch_script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    if int(world_size) == 1 or is_batch_script or "SLURM_PROCID" not in environment:
        return {}
    if not (address := environment.get("MASTER_ADDR", "")):
        address = "localhost"
        if "SLURM_JOB_NODELIST" in os.environ:
            from submitit.slurm.slurm import SlurmJobEnvironment
            address = SlurmJobEnvironment().hostnames[0]
    job, step = int(environment.get("SLURM_JOB_ID", 0)), int(environment.get("SLURM_STEP_ID", 0))
    port = 20_000 + (job + 101 * step) % 12_000     # below the ports that a system hands out
    return {"RANK": environment["SLURM_PROCID"], "WORLD_SIZE": world_size,
            "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"), "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
            "MASTER_ADDR": address}
