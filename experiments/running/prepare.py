"""What cells need from elsewhere, read once on a machine with internet: data sets, dense models, feature networks."""

import logging
from collections.abc import Sequence

from diffprune.config.compose import composed
from diffprune.config.naming import fingerprint
from diffprune.stages.options import from_elsewhere
from experiments.planning.cells import Cell

log = logging.getLogger("diffprune")


def prepare(cells: Sequence[Cell]) -> None:
    """Reads each data set, dense model and feature network of the cells once, which fetches those that are not here. Raises
    UserError for what cannot be had."""
    ready: set[str] = set()
    for cell in cells:
        for what, options, read in from_elsewhere(composed(cell.overrides)):
            if (key := fingerprint([what, options])) not in ready:
                read()
                log.info("%s is here", what)
                ready.add(key)
