"""The log file of a run."""

import logging
import sys
from contextlib import suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """Where the disk refuses the file, only the terminal has the messages: no run ends for its log, and a finished one in a
    read-only archive can be shown."""

    def __init__(self, filename: str | Path) -> None:
        super().__init__(filename, delay=True)
        with suppress(OSError):
            self.stream = self._open()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
