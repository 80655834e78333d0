"""`python -m experiments.readme [RUNS|TABLE]`: the README's tables, from results kept in the repository.

RUNS are run folders, or folders above them, a TABLE stands for its finished runs: their configuration and metrics are
copied to `experiments/results/digits` first, and the sample grid of the default run beside them. Without them the tables
are written anew from what is kept.
"""

import shutil
import sys
from pathlib import Path

from omegaconf import OmegaConf

from diffprune.report import run_table
from diffprune.report.comparison import compare
from diffprune.report.finished import Finished, find
from diffprune.report.quantities import MAIN
from diffprune.run import Run
from experiments.blocks import replaced
from experiments.cells import plan
from experiments.declared import names

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "experiments" / "results" / "digits"
GRID = ROOT / "experiments" / "results" / "digits_samples.png"
SCALE = 8       # screen pixels per image pixel


def keep(folder: Path) -> None:
    """Copies what tells a run's numbers and how they were made; where it lay is nobody's business."""
    source, target = Run(folder), Run(KEPT / folder.name)
    target.config.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.metrics, target.metrics)
    options = OmegaConf.load(source.config)
    options.paths = {"runs": "runs", "cache": "cache"}
    OmegaConf.save(options, target.config)


def keep_grid(folder: Path) -> None:
    """The sample grid, enlarged without smoothing."""
    from PIL import Image
    with Image.open(Run(folder).grid) as grid:
        grid.resize((grid.width * SCALE, grid.height * SCALE), Image.Resampling.NEAREST).save(GRID)


def is_default(run: Finished) -> bool:
    """Whether `python -m diffprune` alone makes this run."""
    return run.options["seed"] == 0 and run.metrics["pruner"] == "diff_pruning"


def tables() -> dict[str, str]:
    """{block of the README: its Markdown}"""
    runs = [Finished.of(folder) for folder in find([KEPT])[0]]
    (default,) = (run for run in runs if is_default(run))
    return {"default run": run_table(default.run.folder, MAIN).markdown(),
            "criteria": compare(runs, level=MAIN).markdown()}


def rendered(readme: str) -> str:
    """`readme` with its generated blocks made anew."""
    for name, table in tables().items():
        readme = replaced(readme, name, table)
    return readme


def paths(argument: str) -> list[Path]:
    """The folders that a word of the command line stands for."""
    if argument not in names():
        return [Path(argument)]
    return [cell.folder for cell in plan([argument]).cells if cell.run.metrics.exists()]


def main(arguments: list[str]) -> None:
    folders = find([path for argument in arguments for path in paths(argument)])[0]
    for folder in folders:
        keep(folder)
        if is_default(Finished.of(folder)):
            keep_grid(folder)
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text()))
    print(f"{readme.name}: {len(folders)} runs kept, tables written")


if __name__ == "__main__":
    main(sys.argv[1:])
