"""Atomic writes: a file or folder is written beside its name, then renamed. Only this project's own is ever replaced."""

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
from typing import Any, TypeVar

from safetensors import SafetensorError

from diffprune.runtime.checksums import LIST, check, checksum_file, listed, names_below, sha256, write_checksum, write_list
from diffprune.runtime.errors import Damaged, UserError

Record = TypeVar("Record")

# What the system refuses, other than for a full disk: its owner, its mode or its state is in the way.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP,
           errno.ENAMETOOLONG, errno.EIO, errno.ESTALE)

UMASK = os.umask(0o077)     # read once: until it is set again the files of other threads have another mode
os.umask(UMASK)


@contextmanager
def atomic_file(path: Path, checksum: bool = False) -> Generator[Path]:
    """Yields a temporary sibling of the file `path`; on success it takes that name, after an error it is deleted. With
    `checksum`, for a file that is read again, its checksum is kept beside it.

    Raises UserError, before the caller writes anything, where a folder of that name exists: it is never replaced. What the
    system refuses is an OSError whoever writes (safetensors raises an exception of its own for a full disk).
    """
    if is_folder(path):
        raise UserError(f"{path} is a folder, and a file is to be written there: give another name, or move the folder away")
    with temporary_sibling(path) as temporary:
        yield temporary
        fsync_below(temporary)
        rename(temporary, path, checksum)


def rename(source: Path, path: Path, checksum: bool) -> None:
    """Gives the file `source` the name `path`, on the same disk, then writes its checksum. A kill between leaves none."""
    if checksum:
        checksum_file(path).unlink(missing_ok=True)
    os.replace(source, path)
    if checksum:
        write_checksum(path)


@contextmanager
def atomic_folder(path: Path, mark: str | None = None) -> Generator[Path]:
    """Yields a temporary sibling of the folder `path`, which the caller makes; on success it gets a list of checksums and
    takes that name. Raises UserError, before the caller writes anything, for what may not be replaced."""
    check_replaceable(path, mark)
    with temporary_sibling(path) as temporary:
        yield temporary
        if not (path / LIST).exists() and (others := names_below(path) - names_below(temporary)):
            raise UserError(f"{path} holds {min(others)}, which would be lost: move it away")
        write_list(temporary)
        fsync_below(temporary)
        # The former folder is renamed first: deleting it takes long, and may fail halfway.
        former = temporary.with_suffix(".former.partial")
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
        remove_tree(former)


def check_replaceable(folder: Path, mark: str | None = None) -> None:
    """Raises UserError where `folder` is a file, or holds a file that is not as this project has written it there. With a
    `mark`, the name or pattern of a file that only this project writes, it must hold that too: a list of checksums alone may
    be a user's own. Without a list, as of an earlier version, the mark is enough."""
    if is_file(folder):
        raise UserError(f"{folder} is a file, and a folder is to be written there: give another name, or move the file away")
    marked = mark is not None and any(folder.glob(mark))
    if marked and not (folder / LIST).exists():
        return
    digests = listed(folder / LIST) if marked or mark is None else {}
    for name in sorted(names_below(folder)):
        if digests.get(name) != sha256(folder / name):
            raise UserError(f"{folder / name} is not as this project wrote it there, and the folder is to be replaced: move "
                            "the folder away")


@contextmanager
def temporary_sibling(path: Path) -> Generator[Path]:
    """Yields an unused hidden name beside `path`; after an error nothing of that name is left."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except BaseException as error:
        remove_tree(temporary)
        if isinstance(error, SafetensorError) and (refused := re.search(r"os error (\d+)", str(error))):
            raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from error
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)      # what a person knows
        raise


def fsync_below(path: Path) -> None:
    """Makes `path`, and every file below it, outlast a power cut and as readable as the umask allows. (safetensors writes
    files that only their owner can read; a run folder is often shared.) A file with further names keeps its mode."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        if file.stat().st_nlink == 1:
            file.chmod(0o666 & ~UMASK)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def remove(file: Path) -> None:
    """Deletes a file with its checksum; a missing one is fine, a folder is an OSError."""
    file.unlink(missing_ok=True)
    checksum_file(file).unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Deletes a file, or a folder with all that is in it; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
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


@contextmanager
def refusals_as_user_errors(place: Path | None = None) -> Generator[None]:
    """Raises UserError, with the name of the file or else of the `place` of the work, where the disk is full or the system
    refuses to read or write; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        name = error.filename or place
        if disk_full(error) and name:
            raise UserError(f"the disk of {name} is full: make room and repeat the command, which goes on from what is "
                            "finished") from error
        if error.errno in REFUSED and name:
            raise UserError(f"{name} cannot be read or written ({error.strerror}): mend that and repeat the "
                            "command") from error
        raise


def sweep_partials(folder: Path) -> None:
    """Deletes what killed processes left half written directly in `folder`."""
    for file in folder.glob(".*.partial"):
        remove_tree(file)


def read_record(kind: type[Record], path: Path) -> Record:
    """The dataclass `kind` whose fields a JSON file holds; raises Damaged where it holds others."""
    try:
        return kind(**read_json(path))
    except TypeError as error:
        raise Damaged(f"{path} does not hold what belongs there ({error}): delete it and repeat the command") from error


def write_json(path: Path, content: Any, checksum: bool = False) -> None:
    """Writes `content` as indented JSON, by rename, with its `checksum` beside it where it is read again; NaN is refused."""
    with atomic_file(path, checksum) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises Damaged where it differs from its checksum or is no JSON."""
    check(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is not readable JSON ({error}): it is damaged, delete it and repeat the command") from error


def shipped_folder(name: str) -> Path:
    """The project's folder `name` ("conf", "slurm"): inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name
