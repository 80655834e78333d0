"""What a cell needs of another is made before its job starts, and nothing else holds a job up."""

from pathlib import Path

import pytest

from experiments.planning.cells import Cell, plan
from experiments.planning.declarations import Row, Table, read
from experiments.running.cell import SEPARATOR
from experiments.running.slurm import command
from experiments.running.waves import in_waves, makers, needs


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """Dense at 100, 50, 20, 10 sampling steps, then one pruned model at the same: 0 to 3 and 4 to 7."""
    return plan(["iso_compute_digits"], seeds=(0,)).cells


def shape(cells: list[Cell], of: list[Cell], **how) -> list[tuple[list[int], list[int], list[str]]]:
    """(cells, tasks that they start after, jobs in the queue that they start after) of each task, by index."""
    return [([cells.index(cell) for cell in task.cells], task.after, task.queued)
            for task in in_waves(of, cells, how.pop("queued", {}), **how)]


def test_makers_come_first_and_each_cell_waits_for_its_own_alone(cells: list[Cell]) -> None:
    assert shape(cells, cells) == [
        ([0], [], []), ([1], [], []), ([2], [], []), ([3], [], []), ([4], [0], []), ([5], [1, 4], []), ([6], [2, 4], []),
        ([7], [3, 4], [])]


def test_what_is_done_holds_nothing_up_and_what_is_in_the_queue_does(cells: list[Cell]) -> None:
    queued = {cells[4].key: "12_4", cells[2].key: "12_2"}
    assert shape(cells, cells[5:], queued=queued) == [([5], [], ["12_4"]), ([7], [], ["12_4"]), ([6], [], ["12_2", "12_4"])]


def test_a_cell_that_stops_early_needs_nothing() -> None:
    for until, wanted in (("prune", []), ("finetune", ["model"]), ("evaluate", ["model", "images"])):
        cells = plan(["iso_compute_digits"], [f"until={until}"], (0,)).cells
        assert [need.split()[0] for need in needs(cells[-1])] == wanted
    assert not needs(plan(["iso_compute_digits"], ["until=finetune"], (0,)).cells[0])


def test_without_a_dense_cell_nobody_waits_for_its_images(cells: list[Cell]) -> None:
    assert set(makers(cells[4:])) == {f"model {cells[4].model}"}
    assert shape(cells[4:], cells[4:]) == [([0], [], []), ([1], [0], []), ([2], [0], []), ([3], [0], [])]


def test_cells_are_packed_with_those_that_wait_for_the_same(cells: list[Cell]) -> None:
    assert shape(cells, cells, pack=3)[:3] == [([0, 1, 2], [], []), ([3], [], []), ([4], [0], [])]
    assert shape(cells, cells, pack=2)[3:] == [([5], [0, 2], []), ([6, 7], [1, 2], [])]
    assert [task for task, _, _ in shape(cells[4:], cells[4:], pack=2)] == [[0], [1, 2], [3]]
    (_, task, _) = in_waves(cells[4:], cells[4:], {}, 2)
    words = command(task)
    assert words[words.index(SEPARATOR) + 1:] == list(task.cells[1].overrides)


def test_a_row_has_options_of_sbatch_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\ndataset: digits\nrows:\n"
                    "  - {title: dense, overrides: [pruner=none, schedule=none], seeds: [0]}\n"
                    "  - title: '{n} GPUs'\n    over: {n: [1, 2]}\n    overrides: ['schedule.steps={n}']\n"
                    "    sbatch: {gpus-per-node: '{n}', time: '8:00:00'}\n")
    table = read("mine", file, "digits", (0,))
    assert isinstance(table, Table)
    assert [row.sbatch for row in table.rows] == [{}, *({"gpus_per_node": n, "time": "8:00:00"} for n in (1, 2))]
    assert Row("alone", (), (0,)).sbatch == {}
