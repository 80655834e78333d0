"""`python -m diffprune.report RUNS…`: finished runs side by side, as a page, Markdown, CSV and LaTeX."""

import argparse
import sys
from pathlib import Path

from diffprune.errors import UserError
from diffprune.report.comparison_page import write_comparison
from diffprune.report.finished import Finished, find


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one sentence about what the user can mend."""
    asked = parser().parse_args(arguments)
    try:
        print(report(asked.runs, asked.out, asked.mixed_protocols))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m diffprune.report", description=__doc__)
    out.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders above them")
    out.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="where to write (default: report)")
    out.add_argument("--mixed-protocols", action="store_true", help="line up runs whose numbers do not compare")
    return out


def report(paths: list[Path], out: Path, mixed_protocols: bool = False) -> str:
    """Compares every finished run in or below `paths`, in files below `out`; returns the table as text.

    Raises UserError where there is no finished run, or where the runs do not compare.
    """
    finished, unfinished = find(paths)
    for folder in unfinished:
        print(f"skipped {folder}: not finished, it has no metrics.json", file=sys.stderr)
    if not finished:
        raise UserError(f"no finished run in {', '.join(map(str, paths))}: a finished run has a metrics.json")
    table = write_comparison([Finished.of(folder) for folder in finished], out, mixed_protocols)
    return f"{table.text()}\n\n{out / 'index.html'}"


if __name__ == "__main__":
    sys.exit(main())
