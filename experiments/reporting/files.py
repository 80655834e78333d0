"""A table's report as files: Markdown, CSV, LaTeX, its figure, and the page with every run's samples."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from diffprune.report.pages.comparison_page import write_comparison
from diffprune.report.pages.files import write
from diffprune.report.tables.protocol import collected, protocol_differences, protocol_of, sentence
from diffprune.report.tables.table import Table as Shown
from diffprune.report.tables.table import as_markdown
from diffprune.runs.metrics import Metrics
from diffprune.runtime.progress import duration
from experiments.planning.cells import Plan
from experiments.planning.declarations import Table
from experiments.reporting.against_published import RULE, Line, beside, comparable, mixed, published
from experiments.reporting.table_figure import table_figure

LIBRARIES = ("python", "torch", "diffusers")        # whose versions stand below a table


def write_report(plan: Plan, name: str, out: Path, page: bool = True, mixed_protocols: bool = False,
                 options: Sequence[str] = ()) -> str:
    """Writes `<name>.md`, `.csv`, `.tex`, `.svg`, `.png` into `out`, for a `page` `<name>/index.html`. Returns the table and
    where it is. `options` are those that the runs were asked for with. Raises UserError, before anything is written, for
    runs that do not compare, unless `mixed_protocols`."""
    table, lines = measured_table(plan, name, mixed_protocols)
    shown = beside(lines)
    write(out, files(table, lines, shown, options))
    finished = [run for line in lines for run in line.runs]
    if page and finished:
        write_comparison(finished, out / name, bool(protocol_differences(finished)), published=published(),
                         missing=missing(lines), title=f"{table.name}: {table.about}")
    return f"{shown.markdown()}\n{out / name}.md" + (f"\n{out / name / 'index.html'}" if page and finished else "")


def measured_table(plan: Plan, name: str, mixed_protocols: bool = False) -> tuple[Table, list[Line]]:
    """The table `name` of the plan with its lines; raises UserError for runs that do not compare."""
    table = next(table for table, _, _ in plan.rows if table.name == name)
    lines = [Line.of(table, row, cells) for of, row, cells in plan.rows if of.name == name]
    return table, comparable(table, lines, mixed_protocols)


def files(table: Table, lines: Sequence[Line], shown: Shown, options: Sequence[str] = ()) -> dict[str, bytes | None]:
    """{file: its content}; None for a figure of which there is nothing to draw."""
    figure = table_figure(table, lines)
    texts = {".md": document(table, lines, shown, figure is not None, options), ".csv": shown.csv(), ".tex": shown.latex()}
    return {f"{table.name}{end}": text.encode() for end, text in texts.items()} | {
        f"{table.name}.svg": figure.svg.encode() if figure else None, f"{table.name}.png": figure.png if figure else None}


def missing(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """(cell, why) for every cell without numbers."""
    cells = [cell for line in lines for cell in line.cells if not cell.run.metrics.exists()]
    return [(cell.name, f"{now.state}: {now.reason}" if now.reason else now.state)
            for cell, now in ((cell, cell.status) for cell in cells)]


def document(table: Table, lines: Sequence[Line], shown: Shown, has_figure: bool, options: Sequence[str]) -> str:
    """The Markdown file: the table, what its status means, and how its numbers were made."""
    paragraphs = [f"# {table.name}: {table.about}", shown.markdown().rstrip()]
    if has_figure:
        paragraphs.append(f"![{table.about}]({table.name}.svg)")
    paragraphs.append(f"Mean ± standard deviation (number of seeds). {RULE}")
    if differing := mixed(table, lines):
        paragraphs.append(f"Not all rows compare, their protocols differ: {sentence(differing)}.")
    runs = [run for line in lines for run in line.runs]
    if stated := collected(map(protocol_of, runs)):
        listed = [f"{name.replace('_', ' ')} {' or '.join(map(str, values))}" for name, values in stated.items()]
        paragraphs.append(as_markdown(f"Protocol: {'; '.join(listed)}."))
    paragraphs.append(made_by(table, lines, options))
    if runs:
        paragraphs.append(as_markdown(provenance([run.metrics for run in runs])))
    return "\n\n".join(paragraphs) + "\n"


def made_by(table: Table, lines: Sequence[Line], options: Sequence[str]) -> str:
    """The command line, and how long it took where every run's folder says when it began and ended."""
    words = [table.name, *(text for text in options if not text.startswith("paths."))]
    statuses = [cell.status for line in lines for cell in line.cells if cell.run.metrics.exists()]
    times = [(now.since, now.ended) for now in statuses if now.since and now.ended]
    took = ""
    if statuses and len(times) == len(statuses):
        seconds, at_once = under_way(times)
        took = f" Its {len(statuses)} runs took {duration(seconds)}, up to {at_once} at once."
    command = shlex.join(words)
    return f"Made by `python -m experiments run {command}`, then `python -m experiments report {command}`.{took}"


def under_way(times: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """For how long, in seconds, any of the runs with these starts and ends was at work, and how many were at most."""
    events = sorted([(since, 1) for since, _ in times] + [(ended, -1) for _, ended in times])
    seconds, running, most = 0.0, 0, 0
    for (moment, change), (later, _) in zip(events, [*events[1:], events[-1]], strict=True):
        running += change
        seconds, most = seconds + (later - moment) * bool(running), max(most, running)
    return seconds, most


def provenance(made: Sequence[Metrics]) -> str:
    """On what and with what the runs were made."""
    about = collected({"device": one.device, "commit": one.commit} | {name: one.versions.get(name) for name in LIBRARIES}
                      for one in made)
    listed = [f"{name} {', '.join(sorted(values))}" for name, values in about.items()]
    hours = sum(sum(one.seconds.values()) for one in made) / 3600
    return f"Runs: {'; '.join([*listed, f'{hours:.1f} hours of runs in all'])}."
