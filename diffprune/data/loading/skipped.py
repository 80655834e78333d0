"""The record of images that were left out."""

import logging

from diffprune.data.loading.readable import Bad

log = logging.getLogger(__name__)

NAMED = 10


class Skipped:
    """Collects bad images by index; says so with the count and the first names, then each time the count has doubled."""

    def __init__(self) -> None:
        self.found: dict[int, Bad] = {}
        self.said = 0

    def add(self, bad: dict[int, Bad]) -> None:
        """Takes up what was found `bad`, by index; images that are known already count once."""
        self.found |= bad
        count = len(self.found)
        if count > self.said and (count <= NAMED or count >= 2 * self.said):
            self.said = count
            names, rest = list(self.reasons)[:NAMED], count - NAMED
            log.warning("%d image%s left out as unusable, the next good one stands in: %s%s", count,
                        " is" if count == 1 else "s are", ", ".join(names), f" and {rest} more" if rest > 0 else "")

    @property
    def reasons(self) -> dict[str, str]:
        """{name: why it cannot be used} in index order."""
        return dict(self.found[index] for index in sorted(self.found))
