"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int, done: int = 0, every: float = 30.0,
             size: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
    """Passes `items` on; shows how far it is and the time left (`done` of `total` were there before). `size` says how much
    of `total` an item is."""
    terminal = sys.stderr.isatty()
    with tqdm(desc=what, total=total, initial=done, dynamic_ncols=True, leave=False, disable=not terminal) as bar:
        count, start = 0, (last := time.monotonic())
        for item in items:
            yield item
            count += size(item)
            bar.update(size(item))
            now = time.monotonic()
            if not terminal and now - last >= every:
                last, left = now, (now - start) / count * (total - done - count)
                log.info("%s: %d of %d, about %s left", what, done + count, total, duration(left))


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
