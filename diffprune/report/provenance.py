"""How every number was made, and what there is not."""

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from diffprune.config import STAGES
from diffprune.report import page
from diffprune.report.finished import Finished
from diffprune.report.table import MISSING, Table

Missing = tuple[str, str]       # what is not there, and why


def provenance(named: list[tuple[str, list[Finished]]]) -> Table:
    """One line per run: its command, source and seconds per stage."""
    stages = [stage for stage in STAGES if any(stage in run.metrics.get("seconds", {}) for _, runs in named for run in runs)]
    header = ["run", "configuration", "seed", *(f"{stage} [s]" for stage in stages), "on", "commit", "command"]
    entries = [(title, run) for title, runs in named for run in runs]
    body = [[run.run.name, title, str(run.options["seed"]), *(seconds(run, stage) for stage in stages),
             run.metrics.get("device") or MISSING, (run.metrics.get("commit") or MISSING)[:10],
             run.metrics.get("command") or MISSING] for title, run in entries]
    records: list[dict[str, Any]] = [
        {"run": run.run.name, "configuration": title, "seed": run.options["seed"],
         **{f"seconds_{stage}": run.metrics.get("seconds", {}).get(stage) for stage in stages},
         **{name: run.metrics.get(name) for name in ("device", "commit", "command")},
         "versions": "; ".join(f"{name} {version}" for name, version in run.metrics.get("versions", {}).items())}
        for title, run in entries]
    return Table(header, body, records)


def seconds(run: Finished, stage: str) -> str:
    known = run.metrics.get("seconds", {}).get(stage)
    return MISSING if known is None else f"{known:.1f}"


def provenance_html(shown: Table, runs: Sequence[Finished], folder: Path) -> str:
    """The table for a page in `folder`, each run's name a link to its own report where there is one."""
    reports = {run.run.name: run.run.report for run in runs if run.run.report.exists()}
    last = len(shown.header) - 1

    def cell(j: int, content: str) -> str:
        if j == 0:
            report = reports.get(content)
            named = page.link(content, os.path.relpath(report, folder)) if report else escape(content)
            return f'<th scope="row">{named}</th>'
        return f'<td class="command">{escape(content)}</td>' if j == last else f"<td>{escape(content)}</td>"

    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in shown.header)
    lines = "\n".join(f"<tr>{''.join(cell(j, content) for j, content in enumerate(line))}</tr>" for line in shown.body)
    return (f'<div class="scroll wide" tabindex="0"><table class="sortable"><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{lines}\n</tbody></table></div>")


def missing_table(missing: Iterable[Missing]) -> Table | None:
    """None where nothing is missing."""
    entries = [list(entry) for entry in missing]
    return Table(["missing", "because"], entries, [dict(zip(("missing", "because"), entry, strict=True))
                                                   for entry in entries]) if entries else None


def not_measured(named: list[tuple[str, list[Finished]]]) -> list[Missing]:
    """What some runs have and others were not asked for, and the figures that need more than there is."""
    runs = [run for _, group in named for run in group]
    asked = {"images/s": ("images_per_second", "it ran with evaluate.speed=false"),
             "SSIM": ("ssim", "there is no dense model to compare with"),
             "scores before healing": ("fid_before_healing", "it ran with evaluate.before_healing=false")}
    out = []
    for what, (key, reason) in asked.items():
        lacking = [run for run in runs if run.metrics.get(key) is None and (key != "fid_before_healing" or (
            run.is_trained and run.has_dense))]
        if lacking and len(lacking) < len(runs):
            out += [(f"{what} of {run.run.name}", reason) for run in lacking]
    seeds = {title: len(group) for title, group in named}
    if seeds and len(set(seeds.values())) > 1:
        most = max(seeds.values())
        out += [(f"{most - count} of {most} seeds of {title}", "no finished run") for title, count in seeds.items()
                if count < most]
    return out
