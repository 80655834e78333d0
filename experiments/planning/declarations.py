"""Which runs a table or figure needs, as `tables/*.yaml` and `datasets.yaml` declare them; nothing is composed here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from diffprune.runtime.errors import UserError

FOLDER = Path(__file__).parents[1] / "tables"
DATASETS = Path(__file__).parents[1] / "datasets.yaml"
KEYS = {"about", "dataset", "datasets", "source", "rows", "figure"}
ROW_KEYS = {"title", "overrides", "over", "seeds", "published", "series", "at", "sbatch"}
PLACEHOLDER = re.compile(r"\{(\w+)([+-]\d+)?(?::(\w+))?\}")


@dataclass(frozen=True)
class Row:
    """One line of a table: the runs with `overrides` and each of `seeds`; `published` picks its published number. `at` holds
    the row's values on the axes of the table; `series` is the curve that it belongs to; `sbatch` holds long options for its
    jobs on Slurm."""
    title: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    published: dict[str, Any] = field(default_factory=dict)
    at: dict[str, Any] = field(default_factory=dict)
    series: str = ""
    sbatch: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """`source`: the section of the published numbers that its rows' `published` pick from; `figure`: its {x, y}."""
    name: str
    about: str
    dataset: str
    source: str
    rows: tuple[Row, ...]
    figure: dict[str, Any]


@cache
def datasets() -> dict[str, Any]:
    """{data set: what its tables share}, from `datasets.yaml`."""
    return yaml.safe_load(DATASETS.read_text())


@cache
def names() -> dict[str, tuple[Path, str]]:
    """{table: (its file, its data set)}: a file with `datasets` declares a table for each of them."""
    tables = {}
    for file in sorted(FOLDER.glob("*.yaml")):
        declared = yaml.safe_load(file.read_text())
        several = datasets() if declared.get("datasets") == "all" else declared.get("datasets", ())
        tables |= {f"{file.stem}_{dataset}": (file, dataset) for dataset in several}
        if "dataset" in declared:
            tables[file.stem] = file, declared["dataset"]
    return tables


def table(name: str, seeds: tuple[int, ...] | None = None) -> Table:
    """The table `name`; `seeds` replace the declared ones, except in rows that declare their own. Raises UserError, with the
    names of all tables, for an unknown one."""
    if name not in names():
        raise UserError(f"there is no table {name}: choose one of {', '.join(names())}")
    file, dataset = names()[name]
    return read(name, file, dataset, seeds)


def read(name: str, file: Path, dataset: str, seeds: tuple[int, ...] | None = None) -> Table:
    """The table `name` of `dataset` that `file` declares; raises UserError for an unknown key or placeholder."""
    declared = yaml.safe_load(file.read_text())
    refuse_unknown(declared, KEYS, file)
    shared = datasets()[dataset]
    rows = [row for one in declared["rows"] for row in expanded(one, shared, seeds or tuple(shared["seeds"]), file)]
    return Table(name, declared["about"], dataset, declared.get("source", "rows"), tuple(rows), declared.get("figure", {}))


def expanded(declared: dict[str, Any], shared: dict[str, Any], seeds: tuple[int, ...], file: Path) -> Iterator[Row]:
    """One row for each combination of the values in `over`; these and the data set's values fill the {placeholders}."""
    refuse_unknown(declared, ROW_KEYS, file)
    over = declared.get("over", {})
    for chosen in product(*over.values()):
        at = dict(zip(over, chosen, strict=True))
        values = shared["values"] | at
        yield Row(filled(declared["title"], values),
                  (*shared["overrides"], *(str(filled(text, values)) for text in declared["overrides"])),
                  tuple(declared.get("seeds", seeds)),
                  {key: filled(value, values) for key, value in declared.get("published", {}).items()},
                  declared.get("at", {}) | at, declared.get("series", ""),
                  {name.replace("-", "_"): filled(value, values) for name, value in declared.get("sbatch", {}).items()})


def filled(text: Any, values: dict[str, Any]) -> Any:
    """`text` with its placeholders {name}, {name-1}, {name:g} filled; a single placeholder becomes the value itself."""
    def value(placeholder: re.Match) -> Any:
        name, offset, spec = placeholder.groups()
        if name not in values:
            raise UserError(f"{{{name}}} is no placeholder: give it in the row's over, or in values of {DATASETS.name}")
        number = values[name] + int(offset) if offset else values[name]
        return format(number, spec) if spec else number

    if whole := PLACEHOLDER.fullmatch(str(text)):
        return value(whole)
    return PLACEHOLDER.sub(lambda placeholder: str(value(placeholder)), text) if isinstance(text, str) else text


def refuse_unknown(declared: dict[str, Any], allowed: set[str], file: Path) -> None:
    """Raises UserError for a key of a table or row that is not among the `allowed` ones."""
    if unknown := set(declared) - allowed:
        raise UserError(f"{file.name}: {', '.join(sorted(unknown))} is no key of a table or row: choose from "
                        f"{', '.join(sorted(allowed))}")
