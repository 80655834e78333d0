"""How a run stands, told by its folder alone: `status.json`, whose time of change is the heartbeat of a run at work."""

import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffprune.config.schema import STAGES
from diffprune.runs.run import Run
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import read_record, write_json
from diffprune.runtime.interrupt import CTRL_C, RESUME
from diffprune.runtime.memory import peak_resident

BEAT = 30.0         # seconds between two heartbeats
STALE = 180.0       # after so many seconds without one, nobody works on the run any more


@dataclass(frozen=True)
class RunStatus:
    """`state`: waiting, running, done, failed or stopped (killed, or asked to stop: the same command goes on).

    `until` is the stage asked for; `since` and `ended` are seconds since 1970, `memory` and `gpu_memory` the
    process's peaks in bytes.
    """
    state: str
    until: str = STAGES[-1]
    host: str = ""
    pid: int = 0
    since: float = 0.0
    ended: float | None = None
    reason: str = ""
    memory: int = 0
    gpu_memory: int = 0

    @classmethod
    def of(cls, run: Run, until: str = STAGES[-1]) -> "RunStatus":
        """What `run`'s folder says of the stages up to `until`. Asks no process on another machine and takes no lock."""
        finished = run.metrics.exists()
        try:
            beat, status = run.status.stat().st_mtime, read_record(cls, run.status)
        except (FileNotFoundError, NotADirectoryError):
            return cls("done" if finished else "waiting", until)
        except (Damaged, OSError) as error:
            return cls("failed", until, reason=f"{run.status.name} cannot be read ({error}): delete it")
        if status.state == "running" and status.gone(beat):
            return replace(status, state="stopped", reason=f"its process on {status.host} is gone")
        covers = finished if until == STAGES[-1] else STAGES.index(status.until) >= STAGES.index(until)
        if status.state == "done" and not covers:
            return cls("waiting", until)
        return status

    def gone(self, beat: float) -> bool:
        """Whether the process that called itself running is no more: seen on its own machine, else by its silence."""
        if time.time() - beat > STALE:
            return True
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:     # somebody else's process: it lives
            pass
        return False


@contextmanager
def keep_status(run: Run, until: str) -> Generator[None]:
    """Keeps `run`'s status.json true while its stages are at work; a run that has nothing to do is left untouched.

    The caller holds the run's lock. Every exception passes.
    """
    previous, since = RunStatus.of(run, until), time.time()
    if previous.state != "done":
        put(run, RunStatus("running", until, socket.gethostname(), os.getpid(), since))
    try:
        with heartbeat(run.status):
            yield
    except BaseException as error:
        note(run, until, error, since)
        raise
    if previous.state != "done":
        put(run, ended("done", until, since))


def note(run: Run, until: str, error: BaseException, since: float | None = None) -> None:
    """Writes down that the run ended with `error`: as stopped where that only asks to go on later, else as failed. On a disk
    that cannot be written it is not written down: the error itself says more."""
    with suppress(OSError, UserError):
        put(run, ended("stopped" if resumable(error) else "failed", until, since or time.time(), last_line(error)))


def resumable(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) in (RESUME, CTRL_C)


def last_line(error: BaseException) -> str:
    """One line, with the exception's name unless it was said for a person."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError) or resumable(error):
        return lines[-1] if lines else "interrupted"
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def ended(state: str, until: str, since: float, reason: str = "") -> RunStatus:
    return RunStatus(state, until, socket.gethostname(), os.getpid(), since, time.time(), reason, *peak_memory())


def put(run: Run, now: RunStatus) -> None:
    write_json(run.status, asdict(now))


@contextmanager
def heartbeat(path: Path) -> Generator[None]:
    """Touches `path`, where it exists, every BEAT seconds; an unwritable disk stops the beat, not the work."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                os.utime(path)
            except OSError:
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def peak_memory() -> tuple[int, int]:
    """Bytes that this process held at most so far, of main memory and of its GPU's."""
    torch: Any = sys.modules.get("torch")       # never imported for this
    on_gpu = torch is not None and torch.cuda.is_initialized()
    return peak_resident(), torch.cuda.max_memory_allocated() if on_gpu else 0
