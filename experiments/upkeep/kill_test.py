"""Compares runs that are killed, or asked to stop, at random moments with ones that are not.

`python -m experiments.upkeep.kill_test [--kills 40] [--stops 40] [OVERRIDES…]`

All do the default run on the digits, or the run of the overrides, in a temporary folder, half of them in two processes; W&B
keeps them offline. A third of the moments lies before the first stage, while Python and W&B start. Every kill is a
`kill -9`, every request a SIGTERM or SIGUSR1, to one process or to all; then the same command is started again. Ends with
status 1 where a number, a weight or an image differs, or where a request does not end its run with status 75 in time.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import safe_open

from diffprune.config.schema import STAGES
from diffprune.runs.progress_log import ProgressLog
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json
from diffprune.runtime.interrupt import RESUME

OWN = ("logger=wandb", "device=cpu", "schedule.save_every=20")      # a state now and then, for kills that come fast
TIMED = {"seconds", "images_per_second", "images_per_second_dense", "speedup", "command", "commit"}
SIGNALS = {"kills": [signal.SIGKILL], "stops": [signal.SIGTERM, signal.SIGUSR1]}
START, OVER = "in start-up", "too late"
UNLIKE = {"diffprune.log", "config.yaml", "report.html", "status.json"}     # paths, processes and the time of day
POLL = 0.02         # seconds between looks at a process or its log


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.upkeep.kill_test", description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the run (default: none, the default run on the digits)")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--stops", type=int, default=40, help="how many requests to stop")
    parser.add_argument("--within", type=float, default=10.0, help="seconds within which a request has to be answered")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args(words)
    rng, wrong, places = random.Random(arguments.seed), list[str](), {"kills": Counter[str](), "stops": Counter[str]()}
    with one_sentence(), tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            undisturbed = Runs(Path(folder, f"undisturbed-{processes}"), processes, arguments.overrides, arguments.within)
            seconds = undisturbed.finish()
            for kind, where in places.items():
                runs = Runs(Path(folder, f"{kind}-{processes}"), processes, arguments.overrides, arguments.within)
                count = (getattr(arguments, kind) + 2 - processes) // 2
                where.update(runs.disturb(SIGNALS[kind], at, rng) for at in moments(count, *seconds, rng))
                runs.finish()
                different = set(digests(undisturbed.folder).items()) ^ set(digests(runs.folder).items())
                wrong += runs.wrong + [f"{name} differs after {kind} of {processes} processes"
                                       for name in sorted({name for name, _ in different})]
        if wrong:
            raise UserError("; ".join(wrong))
        if all(set(where) <= {OVER} for where in places.values()):
            raise UserError("each run ended before it was disturbed, which shows nothing: choose a longer run")
    for kind, where in places.items():
        print(f"{sum(where.values())} {kind}: {', '.join(f'{count} {stage}' for stage, count in where.items())}")
    print("every number, weight and image is that of an undisturbed run")


def moments(count: int, starting: float, working: float, rng: random.Random) -> list[tuple[bool, float]]:
    """Random moments for a run that is begun again after each, all over its seconds of starting and of work: whether it is
    counted from the first stage, or else from the start, and the seconds from there."""
    work = sorted(rng.uniform(0, working) for _ in range(count - count // 3))
    chosen = [(True, after - before) for before, after in pairwise([0.0, *work])]
    for _ in range(count // 3):
        chosen.insert(rng.randint(0, len(chosen)), (False, rng.uniform(0, starting)))
    return chosen


@dataclass
class Runs:
    """The same run begun again and again in `folder`, by so many `processes`; `wrong` says what should not have been."""
    folder: Path
    processes: int
    overrides: list[str]
    within: float
    wrong: list[str] = field(default_factory=list)

    def begin(self) -> list[subprocess.Popen]:
        """Starts the processes; their output goes to files in the folder."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-um", "diffprune", f"paths.runs={self.folder}/runs", f"paths.cache={self.folder}/cache",
                   *OWN, *self.overrides]
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listening.getsockname()[1])}
        ranks = range(self.processes)
        shared = os.environ | meeting | {"WORLD_SIZE": str(len(ranks)), "WANDB_MODE": "offline"}
        return [subprocess.Popen(command, stdout=self.log(rank).open("w"), stderr=subprocess.STDOUT,
                                 env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in ranks]

    def log(self, rank: int) -> Path:
        return self.folder / f"{rank}.log"

    def stage(self) -> str:
        """The stage that the run is in, or was in last; START before the first."""
        lines = [line.split()[0] for line in self.log(0).read_text().splitlines() if line.strip().endswith("…")]
        return ([START] + [f"in {word}" for word in lines if word in STAGES])[-1]

    def finish(self) -> tuple[float, float]:
        """Lets the run finish; returns its seconds up to the first stage, and from there on."""
        start, processes = time.monotonic(), self.begin()
        wait(processes, lambda: self.stage() != START)
        first = time.monotonic()
        wait(processes, lambda: False)
        if any(process.returncode for process in processes):
            raise UserError(f"a run ended with a status other than 0: {self.log(0).read_text()[-500:]}")
        return first - start, time.monotonic() - first

    def disturb(self, numbers: Sequence[int], moment: tuple[bool, float], rng: random.Random) -> str:
        """Begins the run and sends one of `numbers` at `moment`, to one process or all; returns the stage that it was in."""
        number, (working, seconds), start, processes = rng.choice(numbers), moment, time.monotonic(), self.begin()
        if working:
            wait(processes, lambda: self.stage() != START)
            start = time.monotonic()
        wait(processes, lambda: time.monotonic() >= start + seconds and all(map(listens, processes)))
        # Processes that do not know each other yet are asked together, as launchers do.
        stage, sent = self.stage(), time.monotonic()
        for process in processes if stage == START or rng.random() < 0.5 else [rng.choice(processes)]:
            process.send_signal(number)
        wait(processes, lambda: time.monotonic() > sent + self.within)
        seconds = time.monotonic() - sent
        late = [process for process in processes if process.poll() is None]
        for process in late:
            process.kill()
        statuses = [process.wait() for process in processes]
        if number != signal.SIGKILL and (late or not set(statuses) <= {0, RESUME}):
            self.wrong.append(f"signal {number} {stage} gave status {statuses}{' too late' if late else ''}: "
                              + " | ".join(self.log(rank).read_text()[-300:] for rank in range(self.processes)))
        print(f"{signal.Signals(number).name} {stage}: {statuses} after {seconds:.1f} s", flush=True)
        return OVER if set(statuses) == {0} else stage


def wait(processes: list[subprocess.Popen], enough: Callable[[], bool]) -> None:
    """Waits until `enough`, or until all processes have ended."""
    while not enough() and any(process.poll() is None for process in processes):
        time.sleep(POLL)


def listens(process: subprocess.Popen) -> bool:
    """Whether the process handles requests to stop, as it does from its first lines on, or is gone. (The handler of
    SIGALRM is the last to be set.)"""
    if process.poll() is not None:
        return True
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGALRM - 1) & 1)


def digests(folder: Path) -> dict[str, str]:
    """{file: digest} of all that the only run in `folder` made, without times of day and durations."""
    (config,) = (folder / "runs").glob("*/*/.hydra")
    run = config.parent
    return {str(file.relative_to(run)): hashlib.sha256(content(file)).hexdigest()
            for file in run.rglob("*") if file.is_file() and file.name not in UNLIKE and file.suffix != ".sha256"}


def content(file: Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(untimed(read_json(file)), sort_keys=True).encode()
    if file.suffix == ".jsonl":
        return json.dumps([untimed(line) for line in ProgressLog.read(file)]).encode()
    if file.name == "scores.safetensors":
        with safe_open(file, "np") as tensors:
            return b"".join(name.encode() + tensors.get_tensor(name).tobytes() for name in sorted(tensors.keys()))
    return file.read_bytes()


def untimed(record: Any) -> Any:
    return {name: value for name, value in record.items() if name not in TIMED} if isinstance(record, dict) else record


if __name__ == "__main__":
    main()
