"""`python -m experiments.running.cell OVERRIDES…`: one cell, as a batch system runs it.

The run of `python -m diffprune OVERRIDES…`, whose folder also tells of a mistake that was found before it began; a healed
model that another run has is taken from there, a process that does the same cell is waited for. Exit status: 0, 1 where it
failed, 75 where the same command goes on.
"""

import logging
import os
import sys

from diffprune.runtime.command_line import one_sentence
from experiments.planning.cells import check_ready, lone
from experiments.running.local import run


def main(overrides: list[str]) -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"    # errors reach `one_sentence` as they are
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        cell = lone(overrides)
        check_ready([cell])
        return run([cell], wait=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
