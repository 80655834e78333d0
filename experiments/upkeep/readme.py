"""The README's tables and figure, and the tables of the digits, from kept results:
`python -m experiments.upkeep.readme [RUNS]`.

RUNS is a folder of runs that has every run of these tables: what tells their numbers and how they were made is copied to
`experiments/results/digits` first, in place of what was there. Without it everything is made anew from what is kept.
"""

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image

from diffprune.config.compose import composed
from diffprune.config.naming import run_name
from diffprune.report import run_table
from diffprune.report.finished import Finished, find
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.quantities import MAIN
from diffprune.report.tables.table import Table
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, atomic_folder, write_json
from experiments.planning.cells import plan
from experiments.reporting.against_published import beside
from experiments.reporting.files import files, measured_table
from experiments.upkeep import README, RESULTS, ROOT, replaced

CRITERIA, METHOD = "table1_digits", "method_digits"
TABLES, DATASET = (CRITERIA, METHOD), "digits"
# What the README shows of the method's table.
COLUMNS = ("configuration", "Fréchet distance before healing", "SSIM before healing", "Fréchet distance (", "SSIM to dense")
SCALE = 8       # screen pixels per image pixel


def keep(runs: Path, results: Path = RESULTS) -> int:
    """Copies every finished run of the tables from in or below `runs` to `results`; returns how many there are. Raises
    UserError, before anything is touched, where one is missing."""
    finished = {folder.name: folder for folder in find([runs])[0]}
    cells = plan(TABLES).cells
    if lacking := [cell.name for cell in cells if cell.run.name not in finished]:
        raise UserError(f"{runs} lacks {len(lacking)} of the {len(cells)} finished runs of {' and '.join(TABLES)} "
                        f"({lacking[0]}): python -m experiments run {' '.join(TABLES)} paths.runs=… makes them")
    processes: dict[tuple[str, int], int] = {}
    with atomic_folder(results / DATASET) as partial:
        for cell in cells:
            keep_run(Run(finished[cell.run.name]), Run(partial / cell.run.name), processes)
    return len(cells)


def keep_run(source: Run, target: Run, processes: dict[tuple[str, int], int]) -> None:
    """Copies what tells the run's numbers and how they were made; where it lay and on which machine is nobody's business.
    `processes` numbers those that made runs, in order of appearance."""
    target.config.parent.mkdir(parents=True)
    shutil.copyfile(source.metrics, target.metrics)
    options = OmegaConf.load(source.config)
    options.paths = {"runs": "runs", "cache": "cache"}
    OmegaConf.save(options, target.config)
    if source.status.exists():
        now = RunStatus.of(source)
        number = processes.setdefault((now.host, now.pid), len(processes) + 1)
        write_json(target.status, asdict(replace(now, host="", pid=number)))
    if is_default(Finished.of(source.folder)):
        target.samples.mkdir()
        shutil.copyfile(source.grid, target.grid)


def is_default(run: Finished) -> bool:
    """Whether `python -m diffprune` alone makes this run."""
    return run.run.name == run_name(composed([]))


def made(results: Path = RESULTS, readme: Path = README) -> dict[Path, bytes]:
    """{file: its content}, all of it from the kept runs."""
    kept, contents = plan(TABLES, [f"paths.runs={results}"]), {}
    runs = [Finished.of(cell.folder) for cell in plan([CRITERIA], [f"paths.runs={results}"]).cells]
    (default,) = (run for run in runs if is_default(run))
    blocks = {"default run": run_table(default.run.folder, MAIN), "criteria": compare(runs, level=MAIN)}
    for name in TABLES:
        table, lines = measured_table(kept, name)
        shown = beside(lines)
        contents |= {results / file: content for file, content in files(table, lines, shown).items() if content is not None}
    blocks["method"] = narrowed(shown, COLUMNS)
    text = readme.read_text()
    for block, shown in blocks.items():
        text = replaced(text, block, shown.markdown())
    return {readme: text.encode(), results / "digits_samples.png": enlarged(default.run.grid)} | contents


def narrowed(table: Table, beginnings: Sequence[str]) -> Table:
    """The columns of `table` whose titles begin so, in that order."""
    columns = [next(i for i, title in enumerate(table.header) if title.startswith(beginning)) for beginning in beginnings]
    return Table([table.header[i] for i in columns], [[line[i] for i in columns] for line in table.body], table.records)


def enlarged(grid: Path) -> bytes:
    """A picture of small images as PNG, larger without smoothing."""
    out = io.BytesIO()
    with Image.open(grid) as small:
        large = small.resize((small.width * SCALE, small.height * SCALE), Image.Resampling.NEAREST)
        large.save(out, "png", optimize=True)
    return out.getvalue()


def write(contents: Mapping[Path, bytes]) -> None:
    for path, content in contents.items():
        with atomic_file(path) as partial:
            partial.write_bytes(content)


def main(arguments: list[str]) -> None:
    with one_sentence():
        if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
            raise UserError("python -m experiments.upkeep.readme takes one folder of runs, or nothing")
        if arguments:
            print(f"{keep(Path(arguments[0]))} runs kept in {RESULTS / DATASET}")
        written = made()
        write(written)
        print("written:", *(path.relative_to(ROOT) for path in written))


if __name__ == "__main__":
    main(sys.argv[1:])
