"""Published numbers for what was run here, from a file that holds them."""

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


@dataclass(frozen=True)
class Published:
    """`settings` is {data set: {protocol: text, rows: [{method, threshold, steps, params in M, macs in G, fid, ssim}]}}."""
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Published":
        """Raises UserError where there is no such file, or none of that form."""
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
        own = {"method": run.metrics["pruner"], "threshold": run.options["pruner"].get("threshold"),
               "steps": run.options["schedule"]["steps"]}
        return next((numbers(row) for row in self.rows(run) if near(row, run.metrics)
                     and all(row.get(name, value) == value for name, value in own.items())), {})

    def dense(self, run: Finished) -> dict[str, float]:
        """The same of the dense model that the run began with."""
        sizes = {name: run.metrics[f"{name}_dense"] for name in ("params", "macs")}
        return next((numbers(row) for row in self.rows(run) if row["method"] == "dense" and near(row, sizes)), {})

    def rows(self, run: Finished) -> list[dict[str, Any]]:
        setting = self.settings.get(run.metrics["dataset"])
        return setting.get("rows", []) if isinstance(setting, dict) else []

    def protocol(self, run: Finished) -> str | None:
        """What the source says about how it measured."""
        setting = self.settings.get(run.metrics["dataset"])
        return setting.get("protocol") if isinstance(setting, dict) else None


def near(row: Mapping[str, Any], sizes: Mapping[str, Any]) -> bool:
    """Whether the sizes that the row states are those that were achieved, up to rounding."""
    return all(abs(sizes[name] / (row[name] * SCALES[name]) - 1) < NEAR for name in ("params", "macs") if name in row)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of the file under the names and in the units of measured quantities."""
    return {name: row[name] * scale for name, scale in SCALES.items() if name in row} | {
        f"{name}_{PUBLISHED_ON}": row[name] for name in OF_FEATURES if name in row}
