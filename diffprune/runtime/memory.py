"""How much main memory this process has used."""

import re
import resource
import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_resident() -> int:
    """The most bytes of main memory that this process held. On Linux from /proc: `getrusage` would begin with what the
    parent held when it started this process."""
    try:
        line = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
    except OSError:
        line = None
    if line is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(line[1]) * 1024


def reset_peak() -> None:
    """Makes `peak_resident` count from now on, where the system can (Linux)."""
    if RESET.exists():
        RESET.write_text("5")
