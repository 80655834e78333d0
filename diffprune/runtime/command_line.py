"""How every command ends on a mistake: one sentence, exit status 1, no traceback."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import refusals_as_user_errors
from diffprune.runtime.interrupt import CTRL_C, Interrupted

MISTAKES = (UserError, HydraException, OmegaConfBaseException)      # in options or files; all else is a defect
WRAPPED = "UserError raised while resolving interpolation: "


@contextmanager
def one_sentence() -> Generator[None]:
    """Ends the process with `error: …` on a mistake in options or files, and without a traceback on a request to stop."""
    try:
        with refusals_as_user_errors():
            yield
    except MISTAKES as error:
        sys.exit(f"error: {sentence(error)}")
    except (KeyboardInterrupt, Interrupted) as stop:
        print("stopped: the same command goes on from what is finished", file=sys.stderr)
        sys.exit(stop.code if isinstance(stop, Interrupted) else CTRL_C)


def sentence(error: Exception) -> str:
    """The message of a mistake; of a configuration error on one line: what is wrong, then the possible choices."""
    if isinstance(error, UserError):
        return str(error)
    text, _, _ = str(error).partition("Config search path")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "append to your config" not in line]
    if lines[0].startswith(WRAPPED):
        return lines[0].removeprefix(WRAPPED)
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).splitlines()[0])
    # A group's `default` is what its choices share, and none of them.
    choices = [line.strip() for line in text.splitlines() if line.startswith("\t") and line.strip() != "default"]
    if choices:
        lines = [lines[0], f"choose one of {', '.join(choices)}"]
    return ": ".join(line.rstrip(".:") for line in lines[:2])
