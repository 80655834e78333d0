"""Several processes that do a plan's cells together on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from math import inf

from experiments.planning.cells import Cell
from experiments.running.local import DONE, FAILED, RESUME, interruptible

# `k/n/t` in a worker's environment: it begins with the k-th cell and every n-th after it; t is when the workers started.
WORKER = "DIFFPRUNE_WORKER"


def work(cells: Sequence[Cell], arguments: Sequence[str], count: int) -> int:
    """Starts the command with `arguments` `count` times and waits; the exit status tells how `cells` stand then.

    The workers share the machine's cores. A request to stop is passed on to them.
    """
    threads, now = str(max(1, (os.cpu_count() or 1) // count)), time.time()
    command = [sys.executable, "-m", "experiments", *arguments]
    started = [subprocess.Popen(command, env=os.environ | {WORKER: f"{k}/{count}/{now}", "OMP_NUM_THREADS": threads})
               for k in range(count)]
    try:
        with interruptible():
            for worker in started:
                worker.wait()
    except KeyboardInterrupt:
        for worker in started:
            worker.send_signal(signal.SIGTERM)
        for worker in started:
            worker.wait()
        return RESUME
    states = {cell.standing.state for cell in cells}
    return DONE if states <= {"done"} else FAILED if "failed" in states else RESUME


def own_first(cells: list[Cell]) -> list[Cell]:
    """In a worker its share of the cells, then the others', in case they are not done; else `cells`."""
    if WORKER not in os.environ:
        return cells
    k, n = map(int, os.environ[WORKER].split("/")[:2])
    return [cell for share in range(n) for cell in cells[(k + share) % n::n]]


def begun() -> float:
    """When this worker and its like started, in seconds since 1970: what failed after that, one of them has tried."""
    return float(os.environ[WORKER].split("/")[2]) if WORKER in os.environ else inf
