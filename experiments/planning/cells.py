"""The cells of tables: one run each, with its folder; cells that are the same run are one, in whatever tables they are."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffprune.config.naming import fingerprint, name_of, prunes, scientific
from diffprune.runs.run import Run
from diffprune.runs.status import Standing
from diffprune.runtime.errors import UserError
from experiments.planning.composed import Composer, pruner_of, unchosen
from experiments.planning.declarations import Row, Table, table

ELSEWHERE = ("launcher", "hydra")       # options that say how cells are submitted, not what one is


@dataclass(frozen=True)
class Cell:
    """One run: what it is called in its table, the overrides that make it, the `options` that change its result.

    `missing` names options that are still to be chosen before it can start.
    """
    title: str
    seed: int
    overrides: tuple[str, ...]
    options: dict[str, Any]
    folder: Path
    until: str
    missing: tuple[str, ...]

    run = property(lambda self: Run(self.folder))
    standing = property(lambda self: Standing.of(self.run, self.until))
    name = property(lambda self: f"{self.title}, seed {self.seed}")

    @property
    def is_dense(self) -> bool:
        """Whether it neither prunes nor trains."""
        return not prunes(self.options) and not self.options["schedule"]["steps"]

    @property
    def command(self) -> list[str]:
        """What a person types."""
        return ["python", "-m", "diffprune", *self.overrides]

    @cached_property
    def model(self) -> str:
        return model_of(self.options)

    def described(self, done: bool) -> dict[str, Any]:
        """What a batch system has to know; its command is that of experiments/running/cell.py."""
        return {"title": self.name, "command": [sys.executable, "-m", "experiments.running.cell", *self.overrides],
                "overrides": list(self.overrides), "folder": str(self.folder), "done": done}


def model_of(options: dict[str, Any]) -> str:
    """What tells a run's final model from others': its scientific options but for those of sampling and evaluation."""
    return fingerprint({key: value for key, value in options.items() if key not in ("sampler", "evaluate")})


@dataclass(frozen=True)
class Plan:
    """Tables with the cells of each row; `cells` has every run once, in order of first appearance."""
    rows: list[tuple[Table, Row, list[Cell]]]

    @cached_property
    def cells(self) -> list[Cell]:
        return list({cell.folder: cell for _, _, cells in reversed(self.rows) for cell in reversed(cells)}.values())[::-1]


def plan(names: Sequence[str], overrides: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """The cells of the tables `names`, each with `overrides` on top. Raises UserError, or what Hydra does, for a mistake."""
    return of_tables([table(name, seeds) for name in names], overrides)


def of_tables(tables: Sequence[Table], overrides: Sequence[str] = ()) -> Plan:
    own = [text for text in overrides if not elsewhere(text)]
    composer = Composer(name for one in tables for row in one.rows if (name := pruner_of(row.overrides)))
    with without_collection():
        return Plan([(declared, row, of_row(row, own, composer, declared.name))
                     for declared in tables for row in declared.rows])


@contextmanager
def without_collection() -> Iterator[None]:
    """A plan makes many objects and drops few: looking for garbage among them would be a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def of_row(row: Row, overrides: Sequence[str], composer: Composer, group: str) -> list[Cell]:
    """A cell for each seed; what they share is found once, where nothing else follows the seed."""
    first, *others = row.seeds
    one = cell(row, first, overrides, composer, group)
    if f"seed={first}" not in one.overrides or not composer.is_alone("seed", one.overrides):
        return [one, *(cell(row, seed, overrides, composer, group) for seed in others)]
    return [one, *(reseeded(one, first, seed) for seed in others)]


def reseeded(one: Cell, first: int, seed: int) -> Cell:
    """The cell that differs from `one`, whose seed is `first`, in its seed alone."""
    options = {**one.options, "seed": seed}
    words = tuple(f"seed={seed}" if text == f"seed={first}" else text for text in one.overrides)
    return replace(one, seed=seed, overrides=words, options=options,
                   folder=one.folder.with_name(name_of(options)))


def cell(row: Row, seed: int, overrides: Sequence[str], composer: Composer, group: str | None = None) -> Cell:
    """The row's run with `seed`; a logger that groups runs groups it under `group`, unless it was told another."""
    chosen = merged((*row.overrides, f"seed={seed}", *overrides))
    options = composer.options(chosen)
    still = unchosen(options)
    runs, dataset, until = options["paths"]["runs"], options["dataset"]["name"], options["until"]
    if group and options["logger"].get("group", "") is None:
        chosen += (f"logger.group={group}",)
    science = scientific(options)
    return Cell(row.title, science["seed"], chosen, science, Path(runs) / dataset / name_of(science), until, tuple(still))


def merged(overrides: Sequence[str]) -> tuple[str, ...]:
    """Of several overrides of one option or group the last, at the place of the first."""
    return tuple({text.partition("=")[0]: text for text in overrides}.values())


def elsewhere(text: str) -> bool:
    return text.partition("=")[0].split(".")[0].lstrip("+~") in ELSEWHERE


def check_ready(cells: Sequence[Cell]) -> None:
    """Refuses to start cells that lack an option; raises UserError that names it."""
    if still := sorted({key for one in cells for key in one.missing}):
        raise UserError(f"nothing chosen for {', '.join(still)}: add for instance {still[0]}=… to the command")


def lone(overrides: Sequence[str]) -> Cell:
    """The cell of these overrides, in no table."""
    return cell(Row("run", tuple(overrides), ()), 0, overrides, Composer())
