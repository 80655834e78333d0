"""The tables and pictures of the README and of docs/method.md, and the tables of the digits, from kept results:
`python -m experiments.upkeep.readme [RUNS]`.

RUNS is a folder of runs that has every run of these tables: what tells their numbers and how they were made is copied to
`experiments/results/digits` first, in place of what was there. Without it everything is made anew from what is kept.
"""

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

from diffprune.config.compose import composed
from diffprune.config.naming import run_name
from diffprune.report import run_table
from diffprune.report.finished import Finished, find
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.paired import HEADER, Difference, differences_to
from diffprune.report.tables.quantities import MAIN, REPORT
from diffprune.report.tables.table import Table, listed
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, atomic_folder, write_json
from experiments.planning.cells import plan
from experiments.reporting.against_published import Line, beside
from experiments.reporting.files import files, measured_table
from experiments.upkeep import README, RESULTS, ROOT, replaced

CRITERIA, METHOD = "table1_digits", "method_digits"
OF_METHOD = (METHOD, "healing_curve_digits", "pareto_digits", "compensation_digits", "objectives_digits",
             "timesteps_digits")        # docs/method.md has them all
TABLES, DATASET = (CRITERIA, *OF_METHOD), "digits"
DISTANCE = "fid_digits-cnn"
PAGE = ROOT / "docs" / "method.md"
# What is shown of the method's tables: columns by the beginning of their titles; in the README rows by the end of theirs.
COLUMNS = ("configuration", "MACs of an image", "MACs of healing", "Fréchet distance before", "Fréchet distance (",
           "SSIM to dense", "held-out loss ↓")
OF_CRITERIA = ("configuration", "MACs", "Fréchet distance (", "SSIM to dense", "Fréchet distance before", "SSIM before")
ROWS = (": paper", ": diffprune", ": diffprune, at the paper's cost")
# The runs whose images are shown, and the rows of the picture: a title, the run, and the row of its own grid.
SHOWN = {"paper": ("pruner.ratio=.5",), "diffprune": ("pruner=diffprune", "pruner.ratio=.5")}
PICTURE = (("dense", "paper", 0), ("cut to a quarter", "paper", 2), ("compensated", "diffprune", 2),
           ("cut, fine-tuned", "paper", 1), ("diffprune", "diffprune", 1))
SCALE, LABEL = 6, 150       # screen pixels per image pixel, and of the column of titles


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
    if source.name in {shown_name(words) for words in SHOWN.values()}:
        target.samples.mkdir()
        shutil.copyfile(source.grid, target.grid)


@cache
def shown_name(words: tuple[str, ...] = ()) -> str:
    """The name of the run that `python -m diffprune` makes with these `words`."""
    return run_name(composed(words))


def made(results: Path = RESULTS, readme: Path = README, page: Path = PAGE) -> dict[Path, bytes]:
    """{file: its content}, all of it from the kept runs."""
    kept, contents = plan(TABLES, [f"paths.runs={results}"]), {}
    runs = [Finished.of(cell.folder) for table, _, cells in kept.rows if table.name == CRITERIA for cell in cells]
    (default,) = (run for run in runs if run.run.name == shown_name())
    blocks = {"default run": without_rates(run_table(default.run.folder, MAIN)),
              "criteria": narrowed(compare(runs, level=MAIN), OF_CRITERIA)}
    of_page = {}
    for name in TABLES:
        table, lines = measured_table(kept, name)
        shown = beside(lines)
        contents |= {results / file: content for file, content in files(table, lines, shown).items() if content is not None}
        if name in OF_METHOD:
            of_page[name] = narrowed(listed([line.measured for line in lines], [], REPORT), COLUMNS)
        if name == METHOD:
            blocks["method"], of_page["paired"] = narrowed(of_page[name], COLUMNS, ROWS), against_paper(lines)
    text, page_text = readme.read_text(), page.read_text()
    for block, shown in blocks.items():
        text = replaced(text, block, shown.markdown())
    for block, shown in of_page.items():
        page_text = replaced(page_text, block, shown.markdown())
    grids = {name: Run(results / DATASET / shown_name(words)).grid for name, words in SHOWN.items()}
    return {readme: text.encode(), page: page_text.encode(), results / "digits_samples.png": picture(grids)} | contents


def against_paper(lines: Sequence[Line]) -> Table:
    """The Fréchet distance of each row of the method's table against the paper's at the same ratio, seed by seed."""
    differences: list[Difference] = []
    for beginning in dict.fromkeys(line.row.title.partition(":")[0] for line in lines if ":" in line.row.title):
        group = [(line.row.title, list(line.runs)) for line in lines if line.row.title.startswith(f"{beginning}:")]
        differences += [one for one in differences_to(f"{beginning}: paper", group) if one.quantity.key == DISTANCE]
    table = Table(HEADER, [one.cells() for one in differences], [one.record() for one in differences])
    return narrowed(table, ("configuration", "difference", "95 %", "p (Holm)", "verdict"))


def without_rates(table: Table) -> Table:
    """Without images per second, which the machine decides; their ratio stays."""
    return Table(table.header, [line for line in table.body if not line[0].startswith("images/s")], table.records)


def narrowed(table: Table, beginnings: Sequence[str], ends: Sequence[str] = ("",)) -> Table:
    """The columns of `table` whose titles begin so, in that order, if it has them, and the rows whose titles end so."""
    columns = [i for beginning in beginnings for i, title in enumerate(table.header) if title.startswith(beginning)]
    lines = [line for line in table.body if line[columns[0]].endswith(tuple(ends))]
    return Table([table.header[i] for i in columns], [[line[i] for i in columns] for line in lines], table.records)


def picture(grids: Mapping[str, Path]) -> bytes:
    """The rows of PICTURE under one another as PNG, larger without smoothing, each with its title on the left."""
    rows = [row_of(grids[run], number) for _, run, number in PICTURE]
    width, height = (SCALE * side for side in rows[0].size)
    whole = Image.new("L", (LABEL + width, height * len(rows)), 255)
    for i, ((title, _, _), row) in enumerate(zip(PICTURE, rows, strict=True)):
        whole.paste(row.resize((width, height), Image.Resampling.NEAREST), (LABEL, i * height))
        ImageDraw.Draw(whole).text((LABEL - 10, (i + 0.5) * height), title, 0, ImageFont.load_default(15), "rm")
    out = io.BytesIO()
    whole.save(out, "png", optimize=True)
    return out.getvalue()


def row_of(grid: Path, number: int) -> Image.Image:
    """One of the three rows of a run's grid: dense, final, before healing."""
    with Image.open(grid) as whole:
        height = whole.height // 3
        return whole.crop((0, number * height, whole.width, (number + 1) * height)).convert("L")


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
