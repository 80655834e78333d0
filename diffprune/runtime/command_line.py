"""How every command ends on a mistake: one sentence, exit status 1, no traceback."""

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import refusals_as_user_errors
from diffprune.runtime.interrupt import CTRL_C, Interrupt, Interrupted

MISTAKES = (UserError, HydraException, OmegaConfBaseException)      # in options or files; all else is a defect
# The extra of the package that installs each library that not every run needs.
EXTRAS = {"altair": "report", "datasets": "data", "jinja2": "report", "lmdb": "data", "onnx": "export",
          "onnxruntime": "export", "onnxscript": "export", "pytorch_fid": "eval", "submitit": "slurm", "torchvision": "eval",
          "transformers": "eval", "vl_convert": "report", "wandb": "wandb", "wandb_workspaces": "wandb"}
WRAPPED = "UserError raised while resolving interpolation: "


@contextmanager
def one_sentence() -> Generator[None]:
    """Ends the process with `error: …` on a mistake in options or files, and without a traceback on a request to stop."""
    try:
        with Interrupt(), extras_named(), refusals_as_user_errors():
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
    if isinstance(error, OverrideParseException) and (option := re.fullmatch(r"([\w./@+~]+)=(.+)", error.override)):
        return (f"{error.override} does not follow Hydra's grammar: quote a value that holds other signs than letters, "
                f"digits, -, _, . and /, {quoted(*option.groups())}")
    text, _, _ = str(error).partition("Config search path")
    if option := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        return (f"{option[1]}={option[2]} holds a comma: quote it if it is one value, {quoted(*option.groups())}, or give "
                f"{option[1]}=[{option[2]}] for a list, or -m for a run with each")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "append to your config" not in line]
    if "hydra/launcher/submitit_slurm" in lines[0]:
        return missing_extra("submitit")
    if lines[0].startswith(WRAPPED):
        return lines[0].removeprefix(WRAPPED)
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).splitlines()[0])
    # A group's `default` is what its choices share, and none of them.
    choices = [line.strip() for line in text.splitlines() if line.startswith("\t") and line.strip() != "default"]
    if choices:
        lines = [lines[0], f"choose one of {', '.join(choices)}"]
    return ": ".join(line.rstrip(".:") for line in lines[:2])


@contextmanager
def extras_named() -> Generator[None]:
    """Raises UserError, with the command that installs it, for a library of an extra that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise UserError(missing_extra(error.name)) from error


def missing_extra(library: str) -> str:
    return f"{library} is not installed: pip install 'diffprune[{EXTRAS[library]}]'"


def quoted(option: str, value: str) -> str:
    """`'option="value"'`, for the shell and for Hydra's grammar."""
    return f"""'{option}="{value}"'"""
