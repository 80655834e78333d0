"""The cells of tables: one run each, with its folder; cells of several tables that are the same run are one cell."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from diffprune.config.compose import composed
from diffprune.config.naming import fingerprint, folders_by_hash, known_name, prunes, science
from diffprune.config.schema import outside_the_name
from diffprune.config.validation import check_options, check_paths, idle
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import key_of
from experiments.planning.declarations import Row, Table, table

ELSEWHERE = ("launcher", "hydra")       # options that say how cells are submitted, not what a cell is
FILES = re.compile(r"[+~]*(dataset|model|evaluate)\b")      # options that may name files
SCHEDULE, PRUNER = re.compile(r"[+~]*schedule[.=@]"), re.compile(r"[+~]*pruner[./]")   # pruner=… replaces every row's


@dataclass(frozen=True)
class Cell:
    """One run: its title in the table, the overrides that make it, the `options` that change its result. `missing` names the
    options that must be chosen before it can start, `accumulate` is the number of micro-batches."""
    title: str
    seed: int
    overrides: tuple[str, ...]
    options: dict[str, Any]
    folder: Path
    until: str
    missing: tuple[str, ...]
    accumulate: int = 1
    sbatch: tuple[tuple[str, Any], ...] = ()        # options of its own, where it is submitted to Slurm

    run = property(lambda self: Run(self.folder))
    status = property(lambda self: RunStatus.of(self.run, self.until))
    key = property(lambda self: key_of(self.folder, self.until))
    name = property(lambda self: f"{self.title}, seed {self.seed}")
    command = property(lambda self: ["python", "-m", "diffprune", *self.overrides])     # what a person types
    steps = property(lambda self: self.options["schedule"]["steps"])
    is_dense = property(lambda self: not prunes(self.options) and not self.options["schedule"]["steps"])
    model = property(lambda self: model_of(self.options))

    def described(self, done: bool) -> dict[str, Any]:
        """What a batch system needs to run it, with the command of experiments/running/cell.py."""
        return {"title": self.name, "command": [sys.executable, "-m", "experiments.running.cell", *self.overrides],
                "overrides": list(self.overrides), "folder": str(self.folder), "done": done}


def model_of(options: dict[str, Any]) -> str:
    """A fingerprint of a run's final model: of its scientific options without those of sampling and evaluation."""
    return fingerprint({key: value for key, value in options.items() if key not in ("sampler", "evaluate")})


@dataclass(frozen=True)
class Plan:
    """Tables with the cells of each row."""
    rows: list[tuple[Table, Row, list[Cell]]]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every run once, in order of first appearance."""
        once: dict[Path, Cell] = {}
        for cell in (cell for _, _, cells in self.rows for cell in cells):
            once.setdefault(cell.folder, cell)
        return list(once.values())


def plan(names: Sequence[str], overrides: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """The cells of the tables `names`, each with `overrides` on top but for those that say how cells are submitted. Raises
    UserError, or Hydra's errors, for a mistake."""
    own = [text for text in overrides if not elsewhere(text)]
    for override in OverridesParser.create().parse_overrides(own):
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} sweeps over values: a table's rows are its sweep, give one value")
    tables, folders = [table(name, seeds) for name in names], cache(folders_by_hash)
    return Plan([(one, row, of_row(row, own, one.name, folders=folders)) for one in tables for row in one.rows])


def lone(overrides: Sequence[str]) -> Cell:
    """The cell of these overrides, in no table."""
    (cell,) = of_row(Row("run", tuple(overrides), (0,)), overrides, checked=False)    # the run itself tells what is wrong
    return cell


def of_row(row: Row, overrides: Sequence[str], group: str | None = None, checked: bool = True,
           folders: Callable[[Path], dict[str, list[str]]] = folders_by_hash) -> list[Cell]:
    """A cell for each seed of the row. A logger that groups runs groups them under `group`, unless another is given. The row
    is composed once; the other seeds are set in that composition, which every option that follows the seed sees. `folders`
    lists the runs in a folder."""
    def words_of(given: Sequence[str]) -> list[tuple[str, ...]]:
        return [merged((*row.overrides, f"seed={seed}", *given)) for seed in row.seeds]

    # A row that fine-tunes nothing, or removes nothing, stays so, whatever the whole table is given.
    for of_group, amount in ((SCHEDULE, "schedule.steps"), (PRUNER, "pruner.ratio")):
        others = [text for text in overrides if not of_group.match(text)]
        if others != list(overrides) and not OmegaConf.select(composed(words_of(others)[0]), amount):
            overrides = others
    words = words_of(overrides)
    cfg = composed(words[0])
    # Options that are given to the whole table are left out where they are for a stage that this row does not have.
    if (used := [text for text in overrides if not idle(cfg, text)]) != list(overrides):
        words = words_of(used)
        cfg = composed(words[0])
    # Where the data are does not change the result: the run has its folder without it, and is told apart as `missing`.
    missing = tuple(sorted(OmegaConf.missing_keys(cfg) & set(outside_the_name())))
    for key in missing:
        OmegaConf.update(cfg, key, None)
    if checked:
        check_options(cfg, words[0])
    grouped = (f"logger.group={group}",) if group and cfg.logger.get("group", "") is None else ()
    seeded = any(text.lstrip("+").startswith("seed=") for text in overrides)
    cells = []
    for seed, own in zip(row.seeds, words, strict=True):
        if not seeded:
            cfg.seed = seed
        options = science(cfg)
        parent = Path(cfg.paths.runs) / cfg.dataset.name
        folder = parent / known_name(options, folders(parent))
        cells.append(Cell(row.title, cfg.seed, own + grouped, options, folder, cfg.until, missing, cfg.schedule.accumulate,
                          tuple(row.sbatch.items())))
    return cells


def merged(overrides: Sequence[str]) -> tuple[str, ...]:
    """Of several overrides of one option or group the last, at the place of the first."""
    return tuple({text.partition("=")[0]: text for text in overrides}.values())


def elsewhere(text: str) -> bool:
    """Whether an override says how cells are submitted."""
    return text.partition("=")[0].split(".")[0].lstrip("+~") in ELSEWHERE


def check_ready(cells: Sequence[Cell], only_warn: bool = False) -> None:
    """Refuses to start cells that lack an option, or whose files are not there, or only warns of the files; raises UserError
    that names what is missing."""
    if missing := sorted({key for cell in cells for key in cell.missing}):
        raise UserError(f"nothing chosen for {', '.join(missing)}: add for instance {missing[0]}=… to the command")
    naming_files = {tuple(text for text in cell.overrides if FILES.match(text)): cell.overrides for cell in cells}
    for overrides in naming_files.values():
        check_paths(composed(overrides), only_warn)
