"""What finished run folders say: one run's table and page, and the comparison of many. Needs no torch."""

from pathlib import Path

from diffprune.report.finished import Finished
from diffprune.report.pages.comparison_page import write_comparison
from diffprune.report.pages.run_page import write_page
from diffprune.report.tables.quantities import REPORT
from diffprune.report.tables.rows import states
from diffprune.report.tables.table import Table, transposed

__all__ = ["run_table", "terminal_table", "write_comparison", "write_report"]


def run_table(folder: Path, level: int = REPORT) -> Table:
    """One column per model of the run (dense, pruned before healing, pruned and healed: those that exist). `level` MAIN
    leaves out what is measured beside Fréchet distance, SSIM, sizes and speed. Raises UserError when `folder` holds no
    finished run."""
    return transposed(states(Finished.of(folder)), level)


def terminal_table(folder: Path) -> str:
    """`run_table` for a terminal."""
    return run_table(folder).text()


def write_report(folder: Path) -> Path:
    """Writes `report.html`, one file that needs no other, into the run folder and returns its path."""
    return write_page(Finished.of(folder))
