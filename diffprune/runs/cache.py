"""Files that many runs share, under content keys, each entry behind a lock."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffprune.config.naming import fingerprint
from diffprune.runtime.files import remove

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Generator[None]:
    """Holds the lock file `path`; waits, and logs that, while another process holds it. A killed process holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that works on %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Cache:
    """Files that many runs share in `folder`, under content keys."""
    folder: Path

    def path(self, kind: str, key: Any, suffix: str) -> Path:
        return self.folder / kind / f"{fingerprint(key)}{suffix}"

    @contextmanager
    def entry(self, kind: str, key: Any, suffix: str) -> Generator[Path]:
        """Yields the file of (`kind`, `key`), locked: the caller fills it when it does not exist."""
        path = self.path(kind, key, suffix)
        with locked(self.folder / "locks" / f"{kind}-{path.stem}.lock", f"{kind} {path.stem}"):
            sweep_partials_of(path)
            yield path

    def lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"


def sweep_partials_of(path: Path) -> None:
    """Deletes what a killed writer of `path` left; only the holder of its lock may call this."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        remove(partial)
