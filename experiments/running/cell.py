"""`python -m experiments.running.cell OVERRIDES… [-- OVERRIDES…]`: one cell, or several in turn, for a batch system.

Does the run of `python -m diffprune OVERRIDES…`; also records in its folder a mistake that was found before the run began.
Takes the fine-tuned model from a run that has the same; waits for another process that is doing the same cell. Exit
status: 0, 1 where the cell failed, 75 where the same command goes on.
"""

import logging
import os
import sys
from itertools import groupby

from diffprune.runtime.interrupt import stoppable

SEPARATOR = "--"        # between the overrides of two cells


def main(overrides: list[str]) -> int:
    from diffprune.runtime.command_line import one_sentence  # these take a while to import
    from diffprune.runtime.errors import UserError
    from diffprune.runtime.source import check_source
    from experiments.planning.cells import check_ready, lone
    from experiments.running.local import note_once, run
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        cells = [lone(list(words)) for end, words in groupby(overrides, SEPARATOR.__eq__) if not end]
        try:
            check_source()
        except UserError as error:
            for cell in cells:
                note_once(cell, error)
            raise
        check_ready(cells)
        return run(cells, wait=True)


if __name__ == "__main__":
    with stoppable():
        from diffprune.runtime.addresses import hide_secrets
        hide_secrets()
        sys.exit(main(sys.argv[1:]))
