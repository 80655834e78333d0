"""Local processes that share their parent's work."""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import unheard


class Workers:
    """`count` processes that run `work(index, *arguments)`, index from 1; they end with the context at the latest.

    They start when `attend` is called first, so that nothing starts where nothing is to be done. They ignore requests to
    stop, which are for their parent.
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
        resource_tracker.ensure_running()   # which would otherwise let the first process hear
        with unheard():
            for index in range(1, self.count + 1):
                self.started.append(spawn.Process(target=self.work, args=(index, *self.arguments), daemon=True))
                self.started[-1].start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()
        for process in self.started:
            process.join()


def leave_with_parent() -> None:
    """Ends this process, which is a worker's, when its parent was killed."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit(os.EX_TEMPFAIL)
