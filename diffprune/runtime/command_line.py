"""What every command line does with a mistake: one sentence, exit status 1, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import CTRL_C

WRAPPED = "UserError raised while resolving interpolation: "


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the process with `error: …` on a mistake in options or files, quietly on Ctrl-C; all else is a defect."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {sentence(error)}")
    except KeyboardInterrupt:
        print("stopped: the same command goes on from what is finished", file=sys.stderr)
        sys.exit(CTRL_C)


def sentence(error: Exception) -> str:
    """What a configuration error says, on one line: what is wrong, then the choices there are."""
    text, _, _ = str(error).partition("Config search path")
    said = [line.strip() for line in text.splitlines() if line.strip() and "append to your config" not in line]
    if said[0].startswith(WRAPPED):
        return said[0].removeprefix(WRAPPED)
    if isinstance(error.__cause__, OmegaConfBaseException):
        said.append(str(error.__cause__).splitlines()[0])
    choices = [line.strip() for line in text.splitlines() if line.startswith("\t")]
    if choices:
        said = [said[0], f"choose one of {', '.join(choices)}"]
    return ": ".join(part.rstrip(".:") for part in said[:2])
