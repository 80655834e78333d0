"""A Weights & Biases workspace for runs, finished or not: those of tables, or those in folders.

Without a login the specification goes into a file, and what sends it is said.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprune.report.finished import find, read_all
from diffprune.report.tables.configurations import distinguishing, flat
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from diffprune.tracking.wandb_tracker import SHORT, first_line, logged_in, run_id
from experiments.planning.cells import Cell

FID, SSIM, MACS = "quality/fid", "quality/ssim", "achieved/macs"
RATIO, THRESHOLD = SHORT["pruner.ratio"], SHORT["pruner.threshold"]


@dataclass(frozen=True)
class Dashboard:
    """Which runs, by their ids, in which project; `keys` are the options that tell them apart but for the seed.

    `baseline` is the dense run's id.
    """
    name: str
    project: str
    entity: str | None
    runs: Sequence[str]
    keys: Sequence[str]
    baseline: str | None = None

    @classmethod
    def of_cells(cls, name: str, cells: Sequence[Cell], project: str, entity: str | None = None) -> "Dashboard":
        """For the runs that `cells` are or will be."""
        return cls(name, project, entity, [run_id(cell.run.name) for cell in cells],
                   keys([cell.options for cell in cells]), first_dense({cell.run.name: cell for cell in cells}))

    @classmethod
    def of_folders(cls, folders: Sequence[Path], project: str, entity: str | None = None) -> "Dashboard":
        """For the finished runs in or below `folders`; raises UserError where there is none."""
        finished, _ = read_all(find(folders)[0])
        if not finished:
            raise UserError(f"no finished run in {', '.join(map(str, folders))}: a dashboard shows finished runs")
        return cls(folders[0].resolve().name, project, entity, [run_id(run.run.name) for run in finished],
                   keys([run.options for run in finished]), first_dense({run.run.name: run for run in finished}))

    def workspace(self) -> Any:
        """The workspace, not yet sent; raises nothing for a run that the service does not know."""
        import wandb_workspaces.workspaces as ws
        columns = dict.fromkeys([*self.keys, *SHORT.values(), "seed"])
        return ws.Workspace(
            entity=self.entity or "", project=self.project, name=self.name, sections=sections(self.keys),
            auto_generate_panels=True,
            runset_settings=ws.RunsetSettings(
                filters=ws.And(ws.Metric("ID").isin(list(self.runs))), groupby=[ws.Config(key) for key in self.keys],
                order=[ws.Ordering(ws.Summary(FID), ascending=True)], baseline_run=self.baseline,
                pinned_columns=[*(f"summary:{key}" for key in (FID, SSIM, MACS, "achieved/params", "speed/speedup")),
                                *(f"config:{key}" for key in columns)]))

    def specification(self) -> dict[str, Any]:
        """What would be sent, as plain values."""
        # The library has no public way to see a workspace before it is saved.
        view = self.workspace()._to_model().spec
        return {"name": self.name, "entity": self.entity, "project": self.project,
                "spec": json.loads(view.model_dump_json(by_alias=True, exclude_none=True))}


def keys(options: Sequence[dict[str, Any]]) -> list[str]:
    """The tracker's names of the options that tell runs with these scientific `options` apart, whatever their seed."""
    keys = distinguishing([flat(own) for own in options]) or ["pruner.name"]
    return [SHORT.get(key, key.replace(".", "/")) for key in keys]


def first_dense(runs: Mapping[str, Any]) -> str | None:
    """The id of the dense one among {name: cell or finished run}, of several the first with the lowest seed."""
    dense = {name: run.options["seed"] for name, run in runs.items() if run.is_dense}
    return run_id(min(dense, key=lambda name: dense[name])) if dense else None


def sections(keys: Sequence[str]) -> list[Any]:
    """Quality against size, all cells at a glance, images from the same noise, training."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    size = wr.SummaryMetric(MACS)
    columns = {RATIO: "ratio", THRESHOLD: "threshold"} | {key: key for key in keys if key not in (RATIO, THRESHOLD)}
    cells = [wr.ParallelCoordinatesPlotColumn(metric, title, inverted=title == "FID") for metric, title in (
        *((wr.Config(key), title) for key, title in columns.items()), (size, "MACs"), (wr.SummaryMetric(FID), "FID"))]
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
