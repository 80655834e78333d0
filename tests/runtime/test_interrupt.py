"""Requests to stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.interrupt import AGAIN, ASKING, Interrupt, Interrupted, unheard


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_request_ends_the_work_at_once_and_has_its_exit_status(number: int, code: int) -> None:
    former = signal.getsignal(number)
    with pytest.raises(Interrupted, match="the same command goes on") as stopped, Interrupt():
        ask(number)
    assert stopped.value.code == code
    assert signal.getsignal(number) is former


def test_what_is_held_comes_to_its_end_first() -> None:
    done = []
    with pytest.raises(Interrupted, match="SIGUSR1"), Interrupt() as interrupt:     # noqa: PT012
        with interrupt.held():
            with interrupt.held():
                ask(signal.SIGUSR1)
            done.append("all")
        done.append("more")
    assert done == ["all"]


def test_no_except_takes_a_request_for_a_failure_of_its_own() -> None:
    assert not issubclass(Interrupted, Exception)


@contextmanager
def cleanup(asks: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    finally:
        asks()


@pytest.mark.slow
def test_while_a_request_is_answered_only_another_ctrl_c_is_heard() -> None:
    """A launcher's and the whole group's signal ask twice, the second while the first is being answered."""
    heard = []

    def again() -> None:
        ask(signal.SIGUSR1)
        time.sleep(3 * AGAIN)
        heard.append("SIGUSR1 was ignored")
        with pytest.raises(Interrupted, match="SIGINT"):
            ask(signal.SIGINT)

    with pytest.raises(SystemExit), Interrupt(), cleanup(again):     # noqa: PT012
        try:
            with cleanup(again):
                ask(signal.SIGTERM)
        except Interrupted as stop:
            again()
            raise SystemExit(stop.code) from None
    assert len(heard) == 3


class AsksWhenItDies:
    def __del__(self) -> None:
        ask(signal.SIGTERM)


def swallow() -> None:
    with suppress(BaseException):
        ask(signal.SIGTERM)


@pytest.mark.parametrize("loses", [AsksWhenItDies, swallow])
def test_a_request_that_something_swallows_is_raised_again(loses: Callable[[], object]) -> None:
    naps = 0
    with pytest.raises(Interrupted, match="SIGTERM"), Interrupt():     # noqa: PT012
        loses()
        while naps < 30:
            time.sleep(1)
            naps += 1
    assert naps < 30


def test_a_second_request_is_heard_when_the_first_was_swallowed() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interrupt():     # noqa: PT012
        swallow()
        ask(signal.SIGUSR1)
        pytest.fail("went on")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_that_came_too_late_for_the_inner_work_reaches_the_outer(at_once: bool) -> None:
    with pytest.raises(Interrupted, match="SIGTERM") as stopped, Interrupt():     # noqa: PT012
        with Interrupt(at_once):
            swallow()
        pytest.fail("went on")
    assert stopped.value.code == 75


def test_a_request_goes_before_an_error_that_it_caused() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interrupt(), cleanup(lambda: None):     # noqa: PT012
        try:
            ask(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("as some libraries do") from error


def test_an_answered_request_lets_the_work_go_on() -> None:
    with Interrupt() as interrupt:
        swallow()
        interrupt.requested = 0
        time.sleep(3 * AGAIN)


WHOLE = """
import os, signal, time
from diffprune.runtime.interrupt import stoppable
with stoppable():
    import atexit
    atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGUSR1)])
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_command_ends_with_its_status_whatever_comes_while_it_exits() -> None:
    done = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "stopped: the same command goes on from what is finished\n"


def test_work_that_can_be_left_is_left_at_once_where_requests_are_only_remembered() -> None:
    with pytest.raises(Interrupted), Interrupt(at_once=False) as interrupt:     # noqa: PT012
        with pytest.raises(Interrupted, match="SIGTERM"), interrupt.left_at_once():
            ask(signal.SIGTERM)
        with interrupt.held():
            assert interrupt.requested == signal.SIGTERM
        with pytest.raises(Interrupted), interrupt.left_at_once():
            pytest.fail("began although it was asked before")


SLOW = "import time; print(flush=True); time.sleep(0.5); print('whole')"


def test_a_process_begun_unheard_never_hears_and_this_one_hears_afterwards() -> None:
    with pytest.raises(Interrupted), Interrupt(at_once=False) as interrupt:     # noqa: PT012
        with unheard():
            child = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
            child.stdout.readline()
            for number in ASKING:
                child.send_signal(number)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)      # to this thread, whatever others there are
            assert not interrupt.requested
        assert interrupt.requested == signal.SIGTERM
        assert child.communicate()[0] == "whole\n"


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 75)])
def test_a_request_outside_a_training_is_no_traceback_either(stop: BaseException, code: int,
                                                            capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended, one_sentence():
        raise stop
    assert ended.value.code == code
    assert "goes on from what is finished" in capsys.readouterr().err


def test_the_handlers_are_put_back_after_an_error() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), Interrupt():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_thread_of_a_larger_program_trains_without_handlers() -> None:
    seen = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append((interrupt.requested, signal.getsignal(signal.SIGTERM)))
    former = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, former)]
