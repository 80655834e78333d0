"""Several processes on this machine that do the cells of one plan together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from math import inf

from diffprune.runtime.interrupt import RESUME, Interrupt, Interrupted
from experiments.planning.cells import Cell
from experiments.running.local import DONE, FAILED

# `k/n/t` in a worker's environment: it begins with the k-th cell and every n-th after it; the workers started at time t.
WORKER = "DIFFPRUNE_WORKER"


def work(cells: Sequence[Cell], arguments: Sequence[str], count: int) -> int:
    """Starts `count` processes of the command with `arguments` and waits for them; returns the exit status. The workers
    share the machine's cores. A request to stop is passed on to them."""
    threads, now = str(max(1, (os.cpu_count() or 1) // count)), time.time()
    command = [sys.executable, "-m", "experiments", *arguments]
    workers: list[subprocess.Popen] = []
    with Interrupt() as interrupt:
        try:
            with interrupt.held():
                workers += [subprocess.Popen(command, env=os.environ | {WORKER: f"{k}/{count}/{now}",
                                                                        "OMP_NUM_THREADS": threads}) for k in range(count)]
            for worker in workers:
                worker.wait()
        except Interrupted:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait()
            interrupt.requested = 0     # answered
            return RESUME
    states = {cell.status.state for cell in cells}
    return DONE if states <= {"done"} else FAILED if "failed" in states else RESUME


def own_first(cells: list[Cell]) -> list[Cell]:
    """In a worker its own cells, then the others', in case they are left undone; in other processes all cells in order."""
    if WORKER not in os.environ:
        return cells
    k, n = map(int, os.environ[WORKER].split("/")[:2])
    return [cell for shift in range(n) for cell in cells[(k + shift) % n::n]]


def started_at() -> float:
    """When the workers started, in seconds since 1970, infinity in other processes: what failed later is not tried again."""
    return float(os.environ[WORKER].split("/")[2]) if WORKER in os.environ else inf
