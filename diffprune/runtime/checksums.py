"""SHA-256 checksums of files that are read again, in text files that `sha256sum --check` reads too.

The checksum of a single file X is in `.X.sha256` beside it; a folder that was written as a whole has a list of all its
files. A file without a checksum, for instance of an earlier version, is taken as it is.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TypeVar

from diffprune.runtime.errors import Damaged, UserError

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

LIST = "checksums.sha256"       # the name of a folder's list
FOR_PEOPLE = "README.md"        # of the files in a list, one that no command reads
OF_LIST = re.compile(r"^([0-9a-f]{64})  (.+)$", re.MULTILINE)


def sha256(file: Path) -> str:
    """Hex digest of the content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """Where the checksum of the file `path` is."""
    return path.with_name(f".{path.name}.sha256")


def listed(file: Path) -> dict[str, str]:
    """{name: digest} in a file of checksums; empty where there is none."""
    try:
        return {name: digest for digest, name in OF_LIST.findall(file.read_text(errors="replace"))}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def write_checksum(path: Path) -> None:
    """Notes the checksum of the file `path`. A torn note counts as none."""
    text = f"{sha256(path)}  {path.name}\n"
    checksum_file(path).unlink(missing_ok=True)      # not written in place: it may be a hard link
    checksum_file(path).write_text(text)


def matches(path: Path) -> bool:
    """Whether the file `path` equals its checksum, if it has one; where another process has replaced it meanwhile, whether
    the new one does."""
    before, digest = path.stat(), listed(checksum_file(path)).get(path.name)
    if digest is None or sha256(path) == digest:
        return True
    after = path.stat()
    return (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns) and matches(path)


def check(path: Path) -> None:
    """Raises Damaged where the file `path` exists and differs from its checksum."""
    if path.exists() and not matches(path):
        raise Damaged(f"{path} differs from its checksum: it is damaged, delete it and repeat the command")


def intact(path: Path) -> bool:
    """Whether the file `path`, which can be made anew, exists and equals its checksum. A damaged one is discarded, by
    another process perhaps at the same moment."""
    with suppress(FileNotFoundError):
        if path.exists() and not matches(path):
            discard(path)
    return path.exists()


def discard(path: Path) -> None:
    """Deletes a damaged file that is to be made anew; a warning names it. Its checksum goes too."""
    log.warning("%s differs from its checksum and is made anew", path)
    path.unlink(missing_ok=True)
    checksum_file(path).unlink(missing_ok=True)


def names_below(folder: Path) -> set[str]:
    """All files below `folder`, relative to it, but its own list."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()} - {LIST}


def write_list(folder: Path) -> None:
    """Lists all files below `folder`; a list that was copied with them is kept."""
    if not (folder / LIST).exists():
        lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(names_below(folder))]
        (folder / LIST).write_text("".join(lines))


def is_listed(folder: Path, name: str) -> bool:
    """Whether the file `name` is as the list of `folder` says."""
    return listed(folder / LIST).get(name) == sha256(folder / name)


def add_to_list(folder: Path, name: str) -> None:
    """Notes the file `name`, new or changed, in the list of `folder`; a folder without a list stays without."""
    if digests := listed(folder / LIST):
        digests[name] = sha256(folder / name)
        (folder / LIST).unlink()        # not written in place: it may be a hard link
        (folder / LIST).write_text("".join(f"{digest}  {file}\n" for file, digest in sorted(digests.items())))


def check_list(folder: Path) -> None:
    """Raises Damaged for a file that the list in `folder` names and that is missing or differs from its checksum, but for a
    page for people, which may be edited."""
    for name, digest in listed(folder / LIST).items():
        if name != FOR_PEOPLE and (not (folder / name).exists() or sha256(folder / name) != digest):
            raise Damaged(f"{folder / name} is missing or differs from its checksum in {LIST}: delete {folder} and repeat "
                          f"the command that made it, or copy it again; if the change was meant, delete {LIST} alone")


def compared_with_list(load: Callable[[Path], Loaded]) -> Callable[[Path], Loaded]:
    """`load`, which reads a folder, and raises Damaged where that differs from its list: also instead of any error that
    the damage has caused."""
    @wraps(load)
    def compared(folder: Path) -> Loaded:
        try:
            loaded = load(folder)
        except Exception as error:      # of any kind: what damage leads to cannot be told
            with suppress(OSError):
                try:
                    check_list(folder)
                except Damaged as damage:
                    raise Damaged(f"{error}; the cause: {damage}" if isinstance(error, UserError) else damage) from error
            raise
        check_list(folder)
        return loaded
    return compared
