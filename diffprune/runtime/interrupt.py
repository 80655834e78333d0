"""Requests to stop (SIGTERM, SIGUSR1, Ctrl-C): a run keeps what it has finished, and the same command goes on later."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)    # a cluster's two ways to ask, and a person's
RESUME = 75         # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
CTRL_C = 130        # the exit status that shells give a process that Ctrl-C ended
AGAIN = 0.1         # seconds after which a request is raised again that is not being answered


class Interrupted(BaseException):
    """The process was asked to stop by signal `number`; `code` is the exit status for this: RESUME or CTRL_C. Like
    KeyboardInterrupt it is not an Exception: it may be raised anywhere, and no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: the same command goes on from here")
        self.number, self.code = number, CTRL_C if number == signal.SIGINT else RESUME


class Interrupt:
    """Context in which a request to stop raises Interrupted: at once, or at the end of a `held` block.

    `requested` is the number of the signal received, or 0. The code that a request interrupts may lose the exception, as a
    destructor or a bare `except` does: it is raised again until it is on its way up, and at the end of the context at the
    latest. Who catches it inside the context and goes on sets `requested` to 0. While a request is being answered only a
    further Ctrl-C is heeded. On exit the previous signal handlers are restored. Outside the main thread, where Python
    handles no signals, the context changes nothing.
    """

    def __init__(self, at_once: bool = True) -> None:
        """With `at_once=False` a request is only remembered, as if everything were held."""
        self.requested, self.holds, self.former = 0, int(not at_once), {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self.take) for number in (*ASKING, signal.SIGALRM)}
            outer = getattr(self.former[signal.SIGALRM], "__self__", None)
            if isinstance(outer, Interrupt):
                self.requested = outer.requested
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises a request that nobody has answered, in the place of any error."""
        self.holds += 1
        if self.former:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.former.items():
            signal.signal(number, handler)
        if self.requested and not (kind and issubclass(kind, (Interrupted, SystemExit))):
            raise Interrupted(self.requested)

    def take(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; the alarm repeats an earlier request."""
        if number != signal.SIGINT and being_answered():
            return
        if number != signal.SIGALRM:
            self.requested = number if number == signal.SIGINT else self.requested or number
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if self.requested and not self.holds and not in_destructor(frame):
            raise Interrupted(self.requested)

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


def being_answered() -> bool:
    """Whether an Interrupted is on its way up: the code that runs is an `except`, a `finally` or the end of a `with`."""
    error = sys.exception()
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def in_destructor(frame: FrameType | None) -> bool:
    """Whether an exception at `frame` would be lost, with a traceback on the screen."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@contextmanager
def stoppable() -> Generator[None]:
    """A whole command, from before its slow imports: a request to stop ends the process with one line and its status. What
    comes later, while Python exits, is ignored."""
    try:
        with Interrupt() as interrupt:
            interrupt.former |= dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), signal.SIG_IGN)
            yield
    except (Interrupted, SystemExit) as stop:
        if stop.code not in (RESUME, CTRL_C):
            raise
        if isinstance(stop, Interrupted):
            print("stopped: the same command goes on from what is finished", file=sys.stderr)
        # The processes that read images ignore requests to stop, and torch would raise an error for each that is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in multiprocessing.active_children():
            child.kill()
        # Python itself would take apart thousands of modules, which takes seconds.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(stop.code)


@contextmanager
def unheard() -> Generator[None]:
    """Lets processes started in this block ignore requests to stop: this process receives and answers them. It does so after
    the block, or at once where the system delivers the signal to another of its threads."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
