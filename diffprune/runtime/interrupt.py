"""Being asked to stop: a run leaves what it does, keeps what it has and says that it can go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)    # a cluster's two ways to ask, and a person's
RESUME = 75         # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
CTRL_C = 130        # what shells give a process that Ctrl-C ended


class Interrupted(BaseException):
    """The run was asked to stop by signal `number`; `code` is the exit status that says so.

    As KeyboardInterrupt it is no Exception: it comes anywhere, and nothing may take it for a failure of its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: the same command goes on from here")
        self.code = CTRL_C if number == signal.SIGINT else RESUME


class Interrupt:
    """Within `with`, a request to stop raises Interrupted at once, or where it is `held` at the end of that.

    `asked` is the signal's number, else 0. Once asked, only another Ctrl-C is heard. Afterwards the former handlers are
    back. Outside the main thread, where Python takes no signals, it changes nothing.
    """

    def __init__(self, at_once: bool = True) -> None:
        """Without `at_once` a request is only remembered, as if all were held."""
        self.asked, self.holds, self.former = 0, int(not at_once), {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self.take) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def take(self, number: int, _: FrameType | None) -> None:
        if self.asked and number != signal.SIGINT:
            return
        self.asked = number
        if not self.holds:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around what must not be left halfway."""
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        if self.asked and not self.holds:
            raise Interrupted(self.asked)

    @contextmanager
    def left_at_once(self) -> Iterator[None]:
        """Around long work that changes nothing worth keeping, where else a request would be held."""
        former, self.holds = self.holds, 0
        try:
            if self.asked:
                raise Interrupted(self.asked)
            yield
        finally:
            self.holds = former


@contextmanager
def unheard() -> Iterator[None]:
    """Processes started within `with` never hear a request to stop: it is for this one.

    That hears it afterwards; at once, where the system hands it to another of its threads.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
