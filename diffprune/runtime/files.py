"""Atomic writes: a file or folder is written beside its name, then renamed."""

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diffprune.runtime.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Yields a temporary sibling of the file `path`; on success it takes that name, after an error it is deleted.

    Raises UserError, before the caller writes anything, where a folder of that name exists: it is never replaced. What the
    system refuses is an OSError whoever writes (safetensors raises an exception of its own for a full disk).
    """
    if is_folder(path):
        raise UserError(f"{path} is a folder, and a file is to be written there: give another name, or move the folder away")
    with temporary_sibling(path) as temporary:
        yield temporary
        fsync_below(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yields a temporary sibling of the folder `path`, which the caller makes; on success it takes that name. An older
    folder of that name is replaced. Raises UserError, before the caller writes anything, where a file has the name."""
    if is_file(path):
        raise UserError(f"{path} is a file, and a folder is to be written there: give another name, or move the file away")
    with temporary_sibling(path) as temporary:
        yield temporary
        fsync_below(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)


@contextmanager
def temporary_sibling(path: Path) -> Generator[Path]:
    """Yields an unused hidden name beside `path`; after an error nothing of that name is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
    except BaseException as error:
        remove(temporary)
        if isinstance(error, SafetensorError) and (refused := re.search(r"os error (\d+)", str(error))):
            raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from error
        raise


def fsync_below(path: Path) -> None:
    """Makes `path`, and every file below it, outlast a power cut and as readable as the umask allows. (safetensors writes
    files that only their owner can read; a run folder is often shared.)"""
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


def exists(path: Path, kind: Callable[[int], bool] | None = None) -> bool:
    """Whether `path` is there, and of a `kind` (stat.S_ISDIR, stat.S_ISREG); UserError where that may not be asked."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be looked at ({error.strerror}): mend that, or give another place") from error
    return kind is None or kind(mode)


is_file, is_folder = partial(exists, kind=stat.S_ISREG), partial(exists, kind=stat.S_ISDIR)


def disk_full(error: OSError) -> bool:
    """Whether there is no room left: on the disk, or in its user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sweep_partials(folder: Path) -> None:
    """Deletes what killed processes left half written directly in `folder`."""
    for file in folder.glob(".*.partial"):
        remove(file)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, by rename; NaN is refused."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def shipped_folder(name: str) -> Path:
    """The project's folder `name` ("conf", "slurm"): inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name
