"""Published numbers for what was run here, from the YAML file that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffprune.report.finished import Finished
from diffprune.runtime.errors import UserError

SCALES = {"params": 1e6, "macs": 1e9, "ssim": 1.0}      # the file counts in millions and in G
OF_FEATURES = ("fid", "inception_score", "precision", "recall")
PUBLISHED_ON = "inception"      # the features that published distances are computed on
NEAR = 0.02                     # relative: sizes that round to the same published number
UNKNOWN = "unknown"             # the value of a condition that nobody printed
ABLATION = range(50, 1001, 50)  # timesteps kept, of the values in `timestep_ablation`


@dataclass(frozen=True)
class Published:
    """`settings` is {data set: {protocol: text, conditions: {…}, conditions_of: {method: {…}}, rows: [{method, threshold,
    steps, params in M, macs in G, fid, ssim, …}]}}, or under another source's name {data set: the same}."""
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Published":
        """Raises UserError where there is no such file, or one of another form."""
        if not path.is_file():
            raise UserError(f"there is no file {path}: --published takes a YAML file of published numbers")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is no YAML file: {str(error).splitlines()[0]}") from error
        if not isinstance(settings, dict):
            raise UserError(f"{path} holds no published numbers: it must map data sets to their rows")
        return cls(settings)

    def of(self, run: Finished) -> dict[str, float]:
        """{quantity: value} of the row with the run's method, threshold, training steps and achieved size."""
        return self.of_size(run, run.metrics.params, run.metrics.macs, {
            "method": run.metrics.pruner, "threshold": run.options["pruner"].get("threshold"),
            "steps": run.steps})

    def dense(self, run: Finished) -> dict[str, float]:
        """{quantity: value} of the dense model that the run began with."""
        return self.of_size(run, run.metrics.params_dense, run.metrics.macs_dense, {"method": "dense"})

    def of_size(self, run: Finished, params: int, macs: int, own: Mapping[str, Any]) -> dict[str, float]:
        """The first row on the run's data set that states nothing but `own` and, up to rounding, these sizes."""
        return next((numbers(row) for row in self.rows("rows", run.metrics.dataset)
                     if all(row.get(name, value) == value for name, value in own.items())
                     and all(abs(size / (row[name] * SCALES[name]) - 1) < NEAR
                             for name, size in (("params", params), ("macs", macs)) if name in row)), {})

    def protocol(self, run: Finished) -> str | None:
        """What the source says about how it measured."""
        return self.setting("rows", run.metrics.dataset).get("protocol")

    def find(self, source: str, dataset: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The first row of `source` on `dataset` that states all of `wanted`; empty where none has been published. A row
        that states no pruning ratio has .3, the only one that full tables were printed for."""
        return next((row for row in self.rows(source, dataset)
                     if all(({"ratio": 0.3} | row).get(key) == value for key, value in wanted.items())), {})

    def conditions(self, source: str, dataset: str, method: str | None = None) -> dict[str, Any]:
        """{entry of a run's protocol: its published value, or several in a list} that a run must share to be compared with
        the rows of `method`. No run is known to share a value that is UNKNOWN."""
        setting = self.setting(source, dataset)
        return setting.get("conditions", {}) | setting.get("conditions_of", {}).get(method, {})

    def rows(self, source: str, dataset: str) -> list[dict[str, Any]]:
        """Every row that `source` has on `dataset`."""
        return self.setting(source, dataset).get("rows", [])

    def setting(self, source: str, dataset: str) -> dict[str, Any]:
        """The part of the file that `source` has on `dataset` (`rows`: the full tables); empty where nothing is known."""
        section = self.settings.get(dataset) if source == "rows" else self.settings[source].get(dataset)
        if not isinstance(section, dict):
            return {}
        return ablation(section) if source == "timestep_ablation" else section


def ablation(curve: Mapping[str, Any]) -> dict[str, Any]:
    """The timestep ablation in the form of the other sources."""
    rows = [{"kept": kept, "ssim": ssim, "ratio": curve["ratio"]}
            for kept, ssim in zip(ABLATION, curve["ssim"], strict=True)]
    return {"conditions": {"images": [32], "ratio": curve["ratio"]}, "rows": rows}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of the file under the names and in the units of measured quantities."""
    return {name: row[name] * scale for name, scale in SCALES.items() if name in row} | {
        f"{name}_{PUBLISHED_ON}": row[name] for name in OF_FEATURES if name in row}
