"""The published numbers, from the one file that holds them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "published.yaml"


@cache
def everything() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def published(setting: str, method: str) -> dict[str, Any]:
    """The first row of `method` in `setting`; empty where none has been seen."""
    rows = everything()[setting]["rows"]
    return next((row for row in rows if row["method"] == method), {})
