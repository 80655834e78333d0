"""How every number was made, and what there is not."""

from collections.abc import Iterable
from typing import Any

from diffprune.config.schema import STAGES
from diffprune.report.figures.chart import Absent, counted
from diffprune.report.finished import Finished
from diffprune.report.tables.protocol import version_differences, versions_of
from diffprune.report.tables.table import MISSING, Table

Missing = tuple[str, str]       # what is missing, and why
NAMED = 3       # runs that lack the same are named up to this many


def provenance(named: list[tuple[str, list[Finished]]]) -> Table:
    """One line per run: its command, source, seconds per stage, and the versions that are not everybody's."""
    entries = [(title, run) for title, runs in named for run in runs]
    stages = [stage for stage in STAGES if any(seconds(run, stage) is not None for _, run in entries)]
    libraries = list(version_differences([run for _, run in entries]))
    header = ["run", "configuration", "seed", *(f"{stage} [s]" for stage in stages), "on", *libraries, "commit", "command"]
    body = [[run.run.name, title, str(run.options["seed"]), *(rounded(seconds(run, stage)) for stage in stages),
             run.metrics.get("device") or MISSING, *(versions_of(run).get(name, MISSING) for name in libraries),
             (run.metrics.get("commit") or MISSING)[:10], run.metrics.get("command") or MISSING] for title, run in entries]
    numbers = [[None, None, run.options["seed"], *(seconds(run, stage) for stage in stages), *[None] * (len(libraries) + 3)]
               for _, run in entries]
    records: list[dict[str, Any]] = [
        {"run": run.run.name, "configuration": title, "seed": run.options["seed"],
         **{f"seconds_{stage}": seconds(run, stage) for stage in stages},
         **{name: run.metrics.get(name) for name in ("device", "commit", "command")},
         "versions": "; ".join(f"{name} {version}" for name, version in versions_of(run).items())}
        for title, run in entries]
    return Table(header, body, records, numbers=numbers)


def seconds(run: Finished, stage: str) -> float | None:
    return run.metrics.get("seconds", {}).get(stage)


def rounded(elapsed: float | None) -> str:
    return MISSING if elapsed is None else f"{elapsed:.1f}"


def missing_table(missing: Iterable[Missing]) -> Table | None:
    """None where nothing is missing."""
    entries = [list(entry) for entry in missing]
    return Table(["missing", "because"], entries, [dict(zip(("missing", "because"), entry, strict=True))
                                                   for entry in entries]) if entries else None


def not_measured(runs: list[Finished]) -> list[Missing]:
    """What was not measured of how many runs, as their own options tell why."""
    found: dict[Missing, list[str]] = {}
    for run in runs:
        for entry in lacking(run):
            found.setdefault(entry, []).append(run.run.name)
    return [(f"{what} of {listed(names, len(runs))}", reason) for (what, reason), names in found.items()]


def lacking(run: Finished) -> list[Missing]:
    """What this run did not measure of its models, and why."""
    known, out = run.metrics, []
    lost = "its metrics.json does not have it, though it was asked for"
    if known.get("images_per_second") is None:
        out.append(("images/s", lost if run.timed else "it ran with evaluate.speed=false"))
    if known.get("ssim") is None:
        out.append(("SSIM", lost if run.has_dense else "there is no dense model to compare with"))
    if run.is_trained and known.get("fid_before_healing") is None:
        out.append(("scores before healing", lost if run.options["evaluate"]["before_healing"] else
                    "it ran with evaluate.before_healing=false"))
    if not run.run.grid.exists():
        out.append(("samples", "its folder has no samples/grid.png"))
    return out


def listed(names: list[str], of: int) -> str:
    """The runs' names, or how many they are where that is a long list."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"all {of} runs" if len(names) == of else f"{len(names)} of {counted(of, 'run')}, among them {names[0]}"


def lacking_seeds(named: list[tuple[str, list[Finished]]]) -> list[Missing]:
    """Configurations with fewer seeds than the others have."""
    seeds = {title: len(group) for title, group in named}
    most = max(seeds.values(), default=0)
    return [(f"{most - count} of {most} seeds of {title}", "no finished run") for title, count in seeds.items()
            if count < most]


def absent(charts: Iterable[object]) -> list[Missing]:
    """The figures that there are not."""
    return [(f"figure: {chart.title}", chart.reason) for chart in charts if isinstance(chart, Absent)]
