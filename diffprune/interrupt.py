"""Being asked to stop: a training run ends its step, keeps its state and says that it can go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)    # a cluster's two ways to ask, and a person's
RESUME = 75         # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
CTRL_C = 130        # what shells give a process that Ctrl-C ended


class Interrupted(Exception):
    """The run was asked to stop by signal `number` and kept its state; `code` is the exit status that says so."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: the same command goes on from here")
        self.code = CTRL_C if number == signal.SIGINT else RESUME


class Interrupt:
    """Within `with`, a request to stop is remembered in `asked` (the signal's number, else 0) and does nothing more.

    Afterwards the former handlers are back. Outside the main thread, where Python takes no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked, self.waiting, self.former = 0, True, {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self.take) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def take(self, number: int, _: FrameType | None) -> None:
        self.asked = number
        if not self.waiting:
            raise Interrupted(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work that changes nothing worth keeping: a request ends it in the middle."""
        self.waiting = False
        try:
            if self.asked:
                raise Interrupted(self.asked)
            yield
        finally:
            self.waiting = True
