"""The record of images that were left out."""

import logging

log = logging.getLogger(__name__)

NAMED = 10


class Skipped:
    """Collects bad images by index; says so with the count and the first names, then each time the count has doubled."""

    def __init__(self) -> None:
        self.found: dict[int, str] = {}
        self.said = 0

    def add(self, bad: dict[int, str]) -> None:
        """Takes up `bad` {index: name}; images that are known already count once."""
        self.found |= bad
        count = len(self.found)
        if count > self.said and (count <= NAMED or count >= 2 * self.said):
            self.said = count
            names, rest = self.names[:NAMED], count - NAMED
            log.warning("%d image%s left out as unusable, the next good one stands in: %s%s", count,
                        " is" if count == 1 else "s are", ", ".join(names), f" and {rest} more" if rest > 0 else "")

    @property
    def names(self) -> list[str]:
        """In index order."""
        return [self.found[index] for index in sorted(self.found)]
