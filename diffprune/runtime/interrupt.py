"""Requests to stop (SIGTERM, SIGUSR1, Ctrl-C): a run keeps what it has finished, and the same command goes on later."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)    # a cluster's two ways to ask, and a person's
RESUME = 75         # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
CTRL_C = 130        # the exit status that shells give a process that Ctrl-C ended


class Interrupted(BaseException):
    """The process was asked to stop by signal `number`; `code` is the exit status for this: RESUME or CTRL_C. Like
    KeyboardInterrupt it is not an Exception: it may be raised anywhere, and no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: the same command goes on from here")
        self.code = CTRL_C if number == signal.SIGINT else RESUME


class Interrupt:
    """Context in which a request to stop raises Interrupted: at once, or at the end of a `held` block.

    `asked` is the number of the signal received, or 0. After the first request only a further Ctrl-C is heeded. On exit the
    previous signal handlers are restored. Outside the main thread, where Python handles no signals, it changes nothing.
    """

    def __init__(self, at_once: bool = True) -> None:
        """With `at_once=False` a request is only remembered, as if everything were held."""
        self.requested, self.holds, self.former = 0, int(not at_once), {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self.take) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def take(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        if self.requested and number != signal.SIGINT:
            return
        self.requested = number
        if not self.holds:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Generator[None]:
        """Delays a request to the end of this block, which must not be left halfway."""
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        if self.requested and not self.holds:
            raise Interrupted(self.requested)

    @contextmanager
    def left_at_once(self) -> Generator[None]:
        """Lets a request end long work that changes nothing worth keeping, inside code that holds requests."""
        former, self.holds = self.holds, 0
        try:
            if self.requested:
                raise Interrupted(self.requested)
            yield
        finally:
            self.holds = former


@contextmanager
def unheard() -> Generator[None]:
    """Lets processes started in this block ignore requests to stop: this process receives and answers them. It does so after
    the block, or at once where the system delivers the signal to another of its threads."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
