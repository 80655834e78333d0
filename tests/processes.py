"""Commands that start at once: forked from a server that has imported what every command needs.

`Popen` takes the place of subprocess.Popen for `python -m MODULE`: the same streams, signals and status, without the eight
seconds of processor time that the imports take. All else it starts as usual: other programs, `python -c` and `python FILE`
for tests of a fresh Python, and an environment that the imports would have read. `NewPython` starts one in any case.
`python -m tests.processes FD` is the server.
"""

import atexit
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path

READ_BY_IMPORTS = ("PYTHON", "HF_", "OMP_", "MKL_", "LD_")      # how the names of such variables begin
OTHER_IMPORTS = {"pip", "mkdocs"}        # modules that the server's imports are of no use to
NewPython, one_request = subprocess.Popen, threading.Lock()


class Popen(NewPython):
    """subprocess.Popen, forked from the server where that does the same."""
    ended: int | None = None        # a descriptor that can be read once a forked process has ended

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                       p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, *rest) -> None:
        environment = dict(os.environ if env is None else env)
        if executable or preexec_fn or pass_fds or shell or not forkable(args, environment):
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, *rest)
            return
        request = {"words": [os.fspath(word) for word in args][1:], "environment": environment,
                   "folder": os.fspath(cwd or os.getcwd()), "new_session": bool(rest[-2])}
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = answer_to(request, streams)
        self.ended = os.pidfd_open(self.pid)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, *given, **named) -> int | None:
        if self.ended is None or self.returncode is not None:
            return super()._internal_poll(*given, **named)
        return self._wait(0) if select.select([self.ended], [], [], 0)[0] else None

    def _wait(self, timeout: float | None) -> int:
        if self.ended is None or self.returncode is not None:
            return super()._wait(timeout)
        if not select.select([self.ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        self.returncode = answer_to({"ended": self.pid})
        os.close(self.ended)
        return self.returncode


def forkable(words, environment: dict[str, str]) -> bool:
    """Whether a fork of the server does what this command would."""
    def read(variables: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(READ_BY_IMPORTS)}
    return (hasattr(os, "pidfd_open") and isinstance(words, (list, tuple)) and len(words) > 2
            and words[0] == sys.executable and words[1] in ("-m", "-um")
            and words[2].split(".")[0] not in OTHER_IMPORTS and read(environment) == read(dict(os.environ)))


def answer_to(request: dict, streams: Sequence[int] = ()) -> int:
    """The server's answer: the number of the process that it forked, or the exit status of one that ended."""
    with one_request:
        socket.send_fds(server(), [json.dumps(request).encode()], streams)
        return int(server().recv(100))


@cache
def server() -> socket.socket:
    """The connection to the server of this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = NewPython([sys.executable, "-m", "tests.processes", str(there.fileno())], pass_fds=[there.fileno()],
                            cwd=Path(__file__).parent.parent, stdin=subprocess.DEVNULL)
    atexit.register(lambda: (here.close(), process.wait()))
    assert here.recv(100) == b"ready"
    return here


def serve(connection: socket.socket) -> None:
    """Forks a process for every request and tells how it ended, until the other side is gone."""
    import diffusers  # noqa: F401
    import wandb.sdk.launch  # noqa: F401

    import diffprune.job
    import diffprune.report
    import diffprune.stages.evaluate
    import diffprune.stages.finetune
    import diffprune.stages.prune
    import diffprune.stages.sample  # noqa: F401
    assert threading.active_count() == 1
    connection.send(b"ready")
    while True:
        message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            return
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        elif not (answer := os.fork()):
            connection.close()
            command(request, streams)
        connection.send(str(answer).encode())
        for number in streams:
            os.close(number)


def command(request: dict, streams: list[int]) -> None:
    """Does what `python -m MODULE …` does, in a fork of the server; never returns."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    option, module, *arguments = request["words"]
    sys.argv, sys.path[0] = [module, *arguments], request["folder"]
    sys.stdin = open(0)     # noqa: SIM115
    sys.stdout.reconfigure(write_through="u" in option)
    random.seed()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if not isinstance(stop.code, int | None):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as own:
        serve(own)
