"""Files that many runs share, under content keys, each entry behind a lock."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffprune.config.naming import fingerprint
from diffprune.runtime.checksums import check_list, checksum_file, intact, write_checksum
from diffprune.runtime.errors import Damaged, UserError
from diffprune.runtime.files import disk_full, remove_tree

log = logging.getLogger(__name__)
DIGITS = 32     # of a key: no two entries, however many there are, have the same


@contextmanager
def locked(path: Path, what: str) -> Generator[None]:
    """Holds the lock file `path`; waits, and logs that, while another process holds it. A killed process holds nothing.

    Raises UserError where the lock cannot be written or its file system has no locks.
    """
    lock = file_lock(path)
    try:
        if not acquired(lock):
            log.info("waiting for another process that works on %s", what)
            lock.acquire()
        yield
    finally:
        lock.release()


def file_lock(path: Path) -> FileLock:
    """A lock that ends with its process, never a mere file whose presence counts: a killed process would leave it."""
    return FileLock(path, fallback_to_soft=False)


def acquired(lock: FileLock) -> bool:
    """Whether the lock is this process's now; never waits. UserError where there can be none."""
    path = Path(lock.lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):    # the folder of shards is deleted when another process completes the set
        return False
    except OSError as error:
        if disk_full(error):
            raise
        raise UserError(f"{path} cannot be locked ({error.strerror}): give another place, on a disk that you may write to "
                        "and that has file locks") from error
    return True


@dataclass(frozen=True)
class Cache:
    """Files that many runs share in `folder`, under content keys."""
    folder: Path

    def path(self, kind: str, key: Any, suffix: str) -> Path:
        return self.folder / kind / f"{fingerprint(key, DIGITS)}{suffix}"

    @contextmanager
    def entry(self, kind: str, key: Any, suffix: str) -> Generator[Path]:
        """Yields the file or folder of (`kind`, `key`), locked: the caller fills it when it does not exist. A damaged one
        is deleted first; a new file gets its checksum afterwards."""
        path = self.path(kind, key, suffix)
        with locked(self.folder / "locks" / f"{kind}-{path.stem}.lock", f"{kind} {path.stem}"):
            sweep_partials_of(path)
            delete_damaged(path)
            if not path.exists():
                checksum_file(path).unlink(missing_ok=True)     # of a file that is gone
            yield path
            if path.is_file() and not checksum_file(path).exists():
                write_checksum(path)

    def lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"


def delete_damaged(path: Path) -> None:
    """Deletes an entry of the cache that differs from its checksums; a warning names it."""
    if not path.is_dir():
        intact(path)
        return
    try:
        check_list(path)
    except Damaged as error:
        log.warning("%s: it is made anew", error)
        remove_tree(path)


def sweep_partials_of(path: Path) -> None:
    """Deletes what a killed writer of `path` left; only the holder of its lock may call this."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        remove_tree(partial)
