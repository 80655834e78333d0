"""`python -m diffprune.report RUNS…`: finished runs side by side, as a page, Markdown, CSV and LaTeX."""

import argparse
import sys
from pathlib import Path

from diffprune.report.finished import find, progress_of, read_all
from diffprune.report.pages.comparison_page import write_comparison
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.paired import compare_paired
from diffprune.report.tables.published import Published
from diffprune.report.tables.quantities import MAIN
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Reports what the command line names; a user's mistake ends it with one sentence and exit status 1."""
    options = parser().parse_args(arguments)
    with one_sentence():
        print(report(options.runs, options.out, options.mixed_protocols, options.baseline, options.published))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m diffprune.report", description=__doc__)
    out.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders above them")
    out.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="where to write (default: report)")
    out.add_argument("--mixed-protocols", action="store_true", help="line up runs whose numbers do not compare")
    out.add_argument("--published", type=Path, metavar="FILE", help="a YAML file of published numbers, to stand beside ours "
                     "(the paper's: experiments/published.yaml)")
    out.add_argument("--baseline", metavar="TEXT", help="the configuration, by its name in the table or a part of it, that "
                     "the others are compared with seed by seed (default: the best Fréchet distance)")
    return out


def report(paths: list[Path], out: Path, mixed_protocols: bool = False, baseline: str | None = None,
           published: Path | None = None) -> str:
    """Compares every finished run in or below `paths`, in files below `out`; returns the main tables as text. Raises
    UserError where there is no finished run, where the runs do not compare, or for an unknown `baseline`."""
    reference = Published.read(published) if published is not None else None
    finished, unfinished = find(paths)
    runs, skipped = read_all(finished)
    skipped += [(folder, progress_of(folder)) for folder in unfinished]
    for folder, reason in skipped:
        print(f"skipped {folder}: {reason}", file=sys.stderr)
    if not runs:
        raise UserError(f"no finished run in {', '.join(map(str, paths))}: a finished run has a metrics.json")
    write_comparison(runs, out, mixed_protocols, baseline, reference, [(folder.name, reason) for folder, reason in skipped])
    tables = (compare(runs, mixed_protocols, MAIN, reference), compare_paired(runs, baseline))
    return "\n\n".join([*(table.text() for table in tables if table is not None), str(out / "index.html")])


if __name__ == "__main__":
    main()
