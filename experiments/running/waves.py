"""Which cells need what another cell makes: a model that they share, or the dense model's images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from diffprune.config.naming import fingerprint
from diffprune.config.schema import STAGES
from experiments.planning.cells import Cell


@dataclass(frozen=True)
class Task:
    """Cells that one job does in turn. It starts after the tasks of this submission, by index, and the jobs in Slurm's
    queue, by number, whose cells make what it needs. `sbatch`: options of its own."""
    cells: list[Cell]
    after: list[int] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)

    sbatch = property(lambda self: self.cells[0].sbatch)


def reaches(cell: Cell, stage: str) -> bool:
    return STAGES.index(cell.until) >= STAGES.index(stage)


def needs(cell: Cell) -> list[str]:
    """What the cell needs that another may have made."""
    options = cell.options
    model = [f"model {cell.model}"] if cell.steps and reaches(cell, "finetune") else []
    return model + [f"images {images_of(cell)}"] * (reaches(cell, "sample") and options["model"]["checkpoint"] is not None)


def images_of(cell: Cell) -> str:
    """A fingerprint of the dense model's images that the cell is compared with."""
    options = cell.options
    return fingerprint([options["model"], options["sampler"], options["evaluate"]["images"], options["dataset"]["name"]])


def makers(cells: Sequence[Cell]) -> dict[str, Cell]:
    """{what cells need: the cell that makes it}: the first with a model, the dense one with its images. Where no cell is the
    dense model's, its images are drawn by whichever cell needs them first."""
    first: dict[str, Cell] = {}
    for cell in cells:
        for need in needs(cell):
            if need.startswith("model") or cell.is_dense:
                first.setdefault(need, cell)
    return first


def in_waves(cells: Sequence[Cell], everything: Sequence[Cell], queued: dict[str, str], pack: int = 1) -> list[Task]:
    """The `cells` to submit as tasks of up to `pack` cells each, makers before those that need them. `everything`: these and
    the other cells of the plan, of which `queued` are in Slurm's queue: {key of the run: number of the job}."""
    made_by, names = makers(everything), [cell.key for cell in cells]
    before = {cell.key: [made_by[need].key for need in needs(cell) if need in made_by and made_by[need].key != cell.key]
              for cell in cells}
    tasks: list[Task] = []
    task_of: dict[str, int] = {}
    left = list(cells)
    while left:
        ready = [cell for cell in left if all(key in task_of or key not in names for key in before[cell.key])]
        alike: dict[str, list[Task]] = {}       # tasks of one cell each
        for cell in ready:
            task = Task([cell], sorted({task_of[key] for key in before[cell.key] if key in task_of}),
                        sorted({queued[key] for key in before[cell.key] if key in queued}))
            alike.setdefault(fingerprint([task.after, task.queued, task.sbatch]), []).append(task)
        for group in alike.values():
            for first in range(0, len(group), pack):
                part = group[first:first + pack]
                tasks.append(replace(part[0], cells=[cell for task in part for cell in task.cells]))
        task_of |= {cell.key: number for number, task in enumerate(tasks) for cell in task.cells}
        left = [cell for cell in left if cell not in ready]
    return tasks
