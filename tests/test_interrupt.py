"""Requests to stop."""

import os
import signal
import threading

import pytest

from diffprune.command import one_sentence
from diffprune.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_request_is_remembered_and_has_its_exit_status(number: int, code: int) -> None:
    former = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        assert interrupt.asked == number
    assert signal.getsignal(number) is former
    assert Interrupted(number).code == code


def test_work_that_can_be_left_is_left_at_once() -> None:
    with Interrupt() as interrupt:
        with pytest.raises(Interrupted, match="SIGTERM"), interrupt.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), interrupt.at_once():
            pytest.fail("began although it was asked before")


def test_ctrl_c_outside_a_training_is_no_traceback_either(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended, one_sentence():
        raise KeyboardInterrupt
    assert ended.value.code == 130
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
            seen.append((interrupt.asked, signal.getsignal(signal.SIGTERM)))
    former = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, former)]
