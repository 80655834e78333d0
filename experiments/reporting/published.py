"""The published numbers, from the one file that holds them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[1] / "published.yaml"
UNKNOWN = "unknown"
ABLATION = range(50, 1001, 50)      # timesteps kept, of the values in `timestep_ablation`


@cache
def everything() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def published(setting: str, method: str) -> dict[str, Any]:
    """The first row of `method` in `setting`; empty where none has been seen."""
    return find("rows", setting, {"method": method})


def find(source: str, dataset: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The first row of `source` on `dataset` that says all of `wanted`; empty where none has been seen.

    What a row does not say of a pruning ratio is .3, the only one that full tables were printed for.
    """
    rows = part(source, dataset).get("rows", [])
    return next((row for row in rows if all(({"ratio": 0.3} | row).get(key) == value for key, value in wanted.items())), {})


def conditions(source: str, dataset: str, method: str | None = None) -> dict[str, Any]:
    """{part of a run's protocol: its published value, or several in a list}: what a run must share to be compared.

    For the rows of `method`; UNKNOWN is a value that nobody printed, so that no run can be known to share it.
    """
    about = part(source, dataset)
    return about.get("conditions", {}) | about.get("conditions_of", {}).get(method, {})


def part(source: str, dataset: str) -> dict[str, Any]:
    if source == "timestep_ablation":
        return ablation(dataset)
    return everything().get(dataset, {}) if source == "rows" else everything()[source].get(dataset, {})


def ablation(dataset: str) -> dict[str, Any]:
    """The timestep ablation in the form of the other parts."""
    curve = everything()["timestep_ablation"].get(dataset)
    if curve is None:
        return {}
    rows = [{"kept": kept, "ssim": ssim, "ratio": curve["ratio"]}
            for kept, ssim in zip(ABLATION, curve["ssim"], strict=True)]
    return {"conditions": {"images": [32], "ratio": curve["ratio"]}, "rows": rows}
