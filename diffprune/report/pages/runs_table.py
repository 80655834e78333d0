"""How every number was made, and what there is not."""

from collections.abc import Iterable, Sequence

from diffprune import __version__
from diffprune.config.schema import STAGES
from diffprune.report.figures.chart import Absent, counted
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named
from diffprune.report.tables.protocol import differences
from diffprune.report.tables.table import MISSING, Table

Missing = tuple[str, str]       # what is missing, and why
COMMIT = 8      # letters of a commit
NAMED = 3       # runs that lack the same are named up to this many


def provenance(named: Named) -> Table:
    """One line per run: its command, source, seconds per stage, and the versions that are not everybody's."""
    entries = [(title, run, run.metrics) for title, runs in named for run in runs]
    stages = [stage for stage in STAGES if any(stage in metrics.seconds for _, _, metrics in entries)]
    libraries = list(differences(metrics.versions for _, _, metrics in entries))
    header = ["run", "configuration", "seed", *(f"{stage} [s]" for stage in stages), "on", *libraries, "commit", "command"]
    body, records = [], []
    for title, run, metrics in entries:
        seconds = {f"seconds_{stage}": metrics.seconds.get(stage) for stage in stages}
        body.append([run.run.name, title, str(run.options["seed"]),
                     *(MISSING if elapsed is None else f"{elapsed:.1f}" for elapsed in seconds.values()),
                     metrics.device or MISSING, *(metrics.versions.get(name, MISSING) for name in libraries),
                     (metrics.commit or MISSING)[:COMMIT], metrics.command or MISSING])
        records.append({"run": run.run.name, "configuration": title, "seed": run.options["seed"], **seconds,
                        "device": metrics.device, "commit": metrics.commit, "command": metrics.command,
                        "versions": "; ".join(f"{name} {version}" for name, version in metrics.versions.items())})
    return Table(header, body, records)


def text_table(header: dict[str, str], entries: Sequence[tuple[str, str]]) -> Table | None:
    """A table of words under `header`, {name for programs: title}; None where there are no entries."""
    return Table([*header.values()], [list(entry) for entry in entries],
                 [dict(zip(header, entry, strict=True)) for entry in entries]) if entries else None


def not_measured(runs: list[Finished]) -> list[Missing]:
    """What was not measured of how many runs, as their own options tell why."""
    gaps: dict[Missing, list[str]] = {}
    for run in runs:
        for entry in lacking(run):
            gaps.setdefault(entry, []).append(run.run.name)
    return [(f"{what} of {listed(names, len(runs))}", reason) for (what, reason), names in gaps.items()]


def lacking(run: Finished) -> list[Missing]:
    """What this run did not measure of its models, and why."""
    lost, out = "its metrics.json does not have it, though it was asked for", []
    if run.metrics.speed.get("images_per_second") is None:
        out.append(("images/s", lost if run.timed else "it ran with evaluate.speed=false"))
    if run.metrics.scores["final"].get("ssim") is None:
        out.append(("SSIM", lost if run.has_dense else "there is no dense model to compare with"))
    if run.is_trained and run.metrics.scores["before_healing"].get("fid") is None:
        out.append(("scores before healing", lost if run.options["evaluate"]["before_healing"] else
                    "it ran with evaluate.before_healing=false"))
    return out if run.run.grid.exists() else [*out, ("samples", "samples/grid.png is not kept with the run")]


def listed(names: list[str], of: int) -> str:
    """The runs' names, or how many they are where that is a long list."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"all {of} runs" if len(names) == of else f"{len(names)} of {counted(of, 'run')}, among them {names[0]}"


def lacking_seeds(named: Named) -> list[Missing]:
    """Configurations with fewer seeds than the others have."""
    seeds = {title: len(group) for title, group in named}
    most = max(seeds.values(), default=0)
    return [(f"{most - count} of {most} seeds of {title}", "no finished run") for title, count in seeds.items()
            if count < most]


def absent(charts: Iterable[object]) -> list[Missing]:
    """The figures that there are not."""
    return [(f"figure: {chart.title}", chart.reason) for chart in charts if isinstance(chart, Absent)]


def made_at(runs: Sequence[Finished]) -> list[str]:
    """Where and when the runs were made, by which source, and which version writes this."""
    days = sorted({day for run in runs if (day := run.ended)})
    machines, commits = (list(dict.fromkeys(filter(None, names))) for names in (
        [run.metrics.device for run in runs], [(run.metrics.commit or "")[:COMMIT] for run in runs]))
    return [*(["on " + " and ".join(machines)] if machines else []),
            *(["ended " + " to ".join(dict.fromkeys((days[0], days[-1])))] if days else []),
            *(["commit " + " and ".join(commits[:NAMED])] if commits else []), f"diffprune {__version__}"]
