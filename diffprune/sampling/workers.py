"""Local processes that share their parent's work."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from diffprune.runtime.errors import UserError


class Workers:
    """`count` processes that run `work(index, *arguments)`, index from 1; they end with the context at the latest.

    They start when `attend` is called first, so that nothing starts where nothing is to be done.
    """

    def __init__(self, count: int, work: Callable[..., None], *arguments: Any) -> None:
        self.count, self.work, self.arguments = count, work, arguments
        self.started: list[BaseProcess] = []

    def attend(self) -> None:
        """Starts the processes, or looks after them; UserError when one has failed."""
        if len(self.started) < self.count:
            self.start()
        for process in self.started:
            if process.exitcode:
                raise UserError(f"process {process.pid}, one of {self.count} that helped, ended with status "
                                f"{process.exitcode}: repeat the command, it resumes from what is finished")

    def start(self) -> None:
        spawn = get_context("spawn")    # a forked process cannot use CUDA, nor the threads of its parent
        for index in range(1, self.count + 1):
            self.started.append(spawn.Process(target=alone, args=(self.work, index, *self.arguments), daemon=True))
            self.started[-1].start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.join()


def alone(work: Callable[..., None], *arguments: Any) -> None:
    """In the new process: Ctrl-C is for the parent, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(*arguments)


def leave_with_parent() -> None:
    """Ends this process, which is a worker's, when its parent was killed."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit(os.EX_TEMPFAIL)
