"""`python -m experiments.dashboard NAME | RUNS…`: a Weights & Biases workspace for the runs of one table.

Without a login the specification goes into a file, and what sends it is said.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprune.command import one_sentence
from diffprune.errors import UserError
from diffprune.files import write_json
from diffprune.report.finished import find, read_all
from diffprune.track import ID_LENGTH, first_line, logged_in

PROJECT = "diffprune"
FID, SSIM, MACS = "quality/fid", "quality/ssim", "achieved/macs"
CRITERION, RATIO, THRESHOLD = "prune/criterion", "prune/ratio", "prune/threshold"


@dataclass(frozen=True)
class Dashboard:
    """Which runs, in which project: those of the group `name`, or `runs` by their names; `baseline` is a run's id."""
    name: str
    project: str = PROJECT
    entity: str | None = None
    runs: Sequence[str] = ()
    baseline: str | None = None

    @classmethod
    def of(cls, folders: Sequence[Path], project: str = PROJECT, entity: str | None = None) -> "Dashboard":
        """For the finished runs in or below `folders`, the dense one as baseline where there is one."""
        finished, _ = read_all(find(folders)[0])
        if not finished:
            raise UserError(f"no finished run in {', '.join(map(str, folders))}: a dashboard shows finished runs")
        dense = sorted((run for run in finished if run.is_dense), key=lambda run: run.options["seed"])
        return cls(folders[0].resolve().name, project, entity, [run.run.name for run in finished],
                   id_of(dense[0].run.name) if dense else None)

    def workspace(self) -> Any:
        """The workspace, not yet sent; raises nothing for a run that the service does not know."""
        import wandb_workspaces.workspaces as ws
        selected = ws.Metric("Name").isin(list(self.runs)) if self.runs else ws.Metric("Group") == self.name
        return ws.Workspace(
            entity=self.entity or "", project=self.project, name=self.name, sections=sections(),
            auto_generate_panels=True,
            runset_settings=ws.RunsetSettings(
                filters=ws.And(selected), groupby=[ws.Config(key) for key in (CRITERION, RATIO, THRESHOLD)],
                order=[ws.Ordering(ws.Summary(FID), ascending=True)], baseline_run=self.baseline,
                pinned_columns=[*(f"summary:{key}" for key in (FID, SSIM, MACS, "achieved/params", "speed/speedup")),
                                *(f"config:{key}" for key in (CRITERION, RATIO, THRESHOLD, "seed"))]))

    def specification(self) -> dict[str, Any]:
        """What would be sent, as plain values."""
        # The library has no public way to see a workspace before it is saved.
        view = self.workspace()._to_model().spec
        return {"name": self.name, "entity": self.entity, "project": self.project,
                "spec": json.loads(view.model_dump_json(by_alias=True, exclude_none=True))}


def sections() -> list[Any]:
    """Quality against size, all cells at a glance, images from the same noise, training."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    size = wr.SummaryMetric(MACS)
    cells = [wr.ParallelCoordinatesPlotColumn(metric, title, inverted=title in ("FID",)) for metric, title in (
        (wr.Config(RATIO), "ratio"), (wr.Config(THRESHOLD), "threshold"), (size, "MACs"), (wr.SummaryMetric(FID), "FID"))]
    quality = [wr.ScatterPlot(title=f"{title} against MACs, coloured by threshold", x=size, y=wr.SummaryMetric(key),
                              z=wr.Config(THRESHOLD)) for title, key in (("FID", FID), ("SSIM to dense", SSIM))]
    return [
        ws.Section("Quality and size", [*quality, wr.ParallelCoordinatesPlot(cells, "Every cell")], is_open=True),
        ws.Section("Images from the same noise, dense above pruned", [
            wr.MediaBrowser(title=title, media_keys=[f"images/{title}"], num_columns=1) for title in ("samples", "preview")],
            is_open=True),
        ws.Section("Pruning and training", [
            wr.MediaBrowser(title="widths", media_keys=["images/widths"], num_columns=1),
            wr.LinePlot(title="training loss", x="train/step", y=["train/loss"], log_y=True)]),
    ]


def id_of(name: str) -> str:
    """The id under which the tracker keeps the run of that name."""
    return name[-ID_LENGTH:]


def send(dashboard: Dashboard, out: Path) -> str:
    """Sends the dashboard where somebody is logged in, else writes it to `out`; returns what one is told."""
    reason = "nobody is logged in"
    if logged_in():
        try:
            return f"sent: {dashboard.workspace().save().url}"
        except Exception as error:      # an outage, a project that is not there, no right to write
            reason = f"W&B refuses it ({first_line(error)})"
    write_json(out, dashboard.specification())
    return f"{reason}: the specification is in {out}. `wandb login`, then the same command, sends it."


def main(arguments: list[str] | None = None) -> None:
    """Builds what the command line names; a user's mistake ends it with one sentence and exit status 1."""
    asked = parser().parse_args(arguments)
    with one_sentence():
        folders = [Path(what) for what in asked.what]
        if all(folder.is_dir() for folder in folders):
            dashboard = Dashboard.of(folders, asked.project, asked.entity)
        elif len(folders) == 1:
            dashboard = Dashboard(asked.what[0], asked.project, asked.entity, baseline=asked.baseline)
        else:
            raise UserError(f"{', '.join(map(str, folders))} are not all folders: name run folders, or one experiment")
        print(send(dashboard, asked.out or Path(f"dashboard-{dashboard.name}.json")))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m experiments.dashboard", description=__doc__)
    out.add_argument("what", nargs="+", metavar="NAME|RUNS",
                     help="an experiment, whose runs share that group, or folders of runs")
    out.add_argument("--project", default=PROJECT, help=f"the W&B project (default: {PROJECT})")
    out.add_argument("--entity", help="the W&B user or team (default: one's own)")
    out.add_argument("--baseline", metavar="ID", help="with NAME: the id of the dense model's run; run folders tell it")
    out.add_argument("--out", type=Path, metavar="FILE", help="where the specification goes without a login "
                     "(default: dashboard-NAME.json)")
    return out


if __name__ == "__main__":
    main()
