"""Files that appear whole or not at all: written beside their name, then renamed."""

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diffprune.errors import UserError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path` (file or folder); on success it takes the name, on an error it goes.

    What the system refuses, a full disk for one, is an OSError whoever writes: safetensors has a name of its own for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        settle(partial)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException as error:
        remove(partial)
        if isinstance(error, SafetensorError) and (refused := re.search(r"os error (\d+)", str(error))):
            raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from error
        raise


def settle(path: Path) -> None:
    """Makes `path`, and every file below it, outlast a power cut and as readable as the umask allows.

    (safetensors writes files that only their owner can read; a run folder is often shared.)
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        file.chmod(0o666 & ~mask)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Deletes a file or a folder; a missing one is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def found(path: Path, kind: Callable[[int], bool] | None = None) -> bool:
    """Whether `path` is there, and of a `kind` (stat.S_ISDIR, stat.S_ISREG); UserError where that may not be asked."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be looked at ({error.strerror}): mend that, or give another place") from error
    return kind is None or kind(mode)


def is_file(path: Path) -> bool:
    """Whether `path` is a file; raises UserError where that may not be asked."""
    return found(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; raises UserError where that may not be asked."""
    return found(path, stat.S_ISDIR)


def full(error: OSError) -> bool:
    """Whether there is no room left: on the disk, or in its user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sweep_partials(folder: Path) -> None:
    """Deletes what killed processes left half written directly in `folder`."""
    for partial in folder.glob(".*.partial"):
        remove(partial)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, by rename; NaN is refused."""
    with appearing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
