"""A program that behaves as a run does: it counts to N, keeps where it is when asked to stop, goes on when repeated.

`python counting.py FOLDER NAME N`: every number is a line of FOLDER/NAME.counted, the end one line of FOLDER/finished.
"""

import os
import signal
import sys
import time
from pathlib import Path

RESUME = 75


def main() -> None:
    folder, name, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    state, asked = folder / f"{name}.state", []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    for count in range(int(state.read_text()) if state.exists() else 0, last):
        append(folder / f"{name}.counted", f"{count}")
        if asked:
            state.write_text(f"{count + 1}")
            print(f"asked to stop at {count + 1} by {signal.Signals(asked[0]).name}", flush=True)
            sys.exit(RESUME)
        time.sleep(0.05)
    append(folder / "finished", name)


def append(path: Path, line: str) -> None:
    """One write to a file opened for appending: lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    main()
