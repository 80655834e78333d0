"""Which runs a table or figure needs, as `tables/*.yaml` and `datasets.yaml` declare them; nothing is composed here."""

import operator
import re
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
ROW_KEYS = {"title", "overrides", "over", "seeds", "published", "series", "at"}
PLACEHOLDER = re.compile(r"\{(\w+)(?:([+-])(\d+))?(?::(\w+))?\}")
ARITHMETIC = {"+": operator.add, "-": operator.sub}


@dataclass(frozen=True)
class Row:
    """One line of a table: the runs with `overrides` and each of `seeds`; `published` picks its published number.

    `at` holds the row's values on the axes of the table; `series` is the curve that it belongs to.
    """
    title: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    published: dict[str, Any] = field(default_factory=dict)
    at: dict[str, Any] = field(default_factory=dict)
    series: str = ""


@dataclass(frozen=True)
class Table:
    """`source`: the part of the published numbers that its rows' `published` pick from; `figure`: {x, y} of its picture."""
    name: str
    about: str
    dataset: str
    source: str
    rows: tuple[Row, ...]
    figure: dict[str, Any]


@cache
def datasets() -> dict[str, Any]:
    return yaml.safe_load(DATASETS.read_text())


@cache
def names() -> dict[str, tuple[Path, str]]:
    """{table: (its file, its data set)}: a file with `datasets` declares a table for each of them."""
    found = {}
    for file in sorted(FOLDER.glob("*.yaml")):
        declared = yaml.safe_load(file.read_text())
        several = list(datasets()) if declared.get("datasets") == "all" else declared.get("datasets", [])
        for dataset in several:
            found[f"{file.stem}_{dataset}"] = file, dataset
        if "dataset" in declared:
            found[file.stem] = file, declared["dataset"]
    return found


def table(name: str, seeds: tuple[int, ...] | None = None) -> Table:
    """The table `name`; `seeds` take the place of the declared ones, but in rows that name their own.

    Raises UserError for a name that is none, with those there are.
    """
    if name not in names():
        raise UserError(f"there is no table {name}: choose one of {', '.join(names())}")
    file, dataset = names()[name]
    return read(name, file, dataset, seeds)


def read(name: str, file: Path, dataset: str, seeds: tuple[int, ...] | None = None) -> Table:
    declared = yaml.safe_load(file.read_text())
    refuse_unknown(declared, KEYS, file)
    shared = datasets()[dataset]
    rows = [row for one in declared["rows"] for row in expanded(one, shared, seeds or tuple(shared["seeds"]), file)]
    return Table(name, declared["about"], dataset, declared.get("source", "rows"), tuple(rows), declared.get("figure", {}))


def expanded(declared: dict[str, Any], shared: dict[str, Any], seeds: tuple[int, ...], file: Path) -> list[Row]:
    """One row for each combination of the values in `over`, which fill the {placeholders}, as the data set's own do."""
    refuse_unknown(declared, ROW_KEYS, file)
    over = declared.get("over", {})
    rows = []
    for chosen in product(*over.values()):
        at = dict(zip(over, chosen, strict=True))
        values = shared["values"] | at
        published = {key: filled(value, values) for key, value in declared.get("published", {}).items()}
        rows.append(Row(filled(declared["title"], values),
                        (*shared["overrides"], *(str(filled(text, values)) for text in declared["overrides"])),
                        tuple(declared.get("seeds", seeds)), published, declared.get("at", {}) | at,
                        declared.get("series", "")))
    return rows


def filled(text: Any, values: dict[str, Any]) -> Any:
    """`text` with its placeholders {name}, {name-1}, {name:g} filled; a text that is nothing else becomes the value."""
    if not isinstance(text, str):
        return text
    if whole := PLACEHOLDER.fullmatch(text):
        return looked_up(whole, values)
    return PLACEHOLDER.sub(lambda found: str(looked_up(found, values)), text)


def looked_up(found: re.Match, values: dict[str, Any]) -> Any:
    name, sign, number, spec = found.groups()
    if name not in values:
        raise UserError(f"{{{name}}} is no placeholder: give it in the row's over, or in values of {DATASETS.name}")
    value = ARITHMETIC[sign](values[name], int(number)) if sign else values[name]
    return format(value, spec) if spec else value


def refuse_unknown(declared: dict[str, Any], known: set[str], file: Path) -> None:
    if unknown := set(declared) - known:
        raise UserError(f"{file.name}: {', '.join(sorted(unknown))} is no key of a table or row: choose from "
                        f"{', '.join(sorted(known))}")
