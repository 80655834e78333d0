"""A Weights & Biases workspace for runs, finished or not: those of tables, or those in folders.

Without a login the specification goes into a file, with the command that sends it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprune.report.finished import Finished, find, read_all
from diffprune.report.tables.configurations import distinguishing, flat
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from diffprune.tracking.wandb_tracker import SHORT, first_line, logged_in, run_id
from experiments.planning.cells import Cell

FID, SSIM, MACS = "quality/fid", "quality/ssim", "achieved/macs"
RATIO, THRESHOLD = SHORT["pruner.ratio"], SHORT["pruner.threshold"]


@dataclass(frozen=True)
class Dashboard:
    """A workspace in a `project` of an `entity` (None: one's own). It shows the runs of these ids, grouped by `keys`, and
    compares them with the `baseline`'s id."""
    name: str
    project: str
    entity: str | None
    runs: Sequence[str]
    keys: Sequence[str]
    baseline: str | None = None

    @classmethod
    def of(cls, name: str, runs: Sequence[Cell | Finished], project: str, entity: str | None = None) -> "Dashboard":
        """For `runs`, finished or still to be done: grouped by the options that tell them apart whatever their seed, and
        compared with the dense run of the lowest seed."""
        keys = distinguishing([flat(run.options) for run in runs]) or ["pruner.name"]
        dense = min((run for run in runs if run.is_dense), key=lambda run: run.options["seed"], default=None)
        return cls(name, project, entity, [run_id(run.run.name) for run in runs],
                   [SHORT.get(key, key.replace(".", "/")) for key in keys], run_id(dense.run.name) if dense else None)

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


def finished_in(folders: Sequence[Path]) -> list[Finished]:
    """The finished runs in or below `folders`; raises UserError where there is none."""
    runs, _ = read_all(find(folders)[0])
    if not runs:
        raise UserError(f"no finished run in {', '.join(map(str, folders))}: a dashboard shows finished runs")
    return runs


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
    samples, preview, widths = (wr.MediaBrowser(title=title, media_keys=[f"images/{title}"], num_columns=1)
                                for title in ("samples", "preview", "widths"))
    loss = wr.LinePlot(title="training loss", x="train/step", y=["train/loss"], log_y=True)
    return [ws.Section("Quality and size", [*quality, wr.ParallelCoordinatesPlot(cells, "Every cell")], is_open=True),
            ws.Section("Images from the same noise, dense above pruned", [samples, preview], is_open=True),
            ws.Section("Pruning and training", [widths, loss])]


def send(dashboard: Dashboard, out: Path) -> str:
    """Sends the dashboard where somebody is logged in, else writes it to `out`; returns what to tell the user."""
    reason = "nobody is logged in"
    if logged_in():
        try:
            return f"sent: {dashboard.workspace().save().url}"
        except Exception as error:      # an outage, a project that does not exist, no right to write
            reason = f"W&B refuses it ({first_line(error)})"
    write_json(out, dashboard.specification())
    return f"{reason}: the specification is in {out}. `wandb login`, then the same command, sends it."
