"""A cell is the run that Hydra makes of its overrides."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from diffprune.config.compose import composed
from diffprune.config.naming import run_folder
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from experiments.planning.cells import check_ready, lone, merged, plan
from experiments.planning.declarations import names, table
from tests.conftest import ROOT
from tests.processes import NewPython

NEEDS = ("dataset.path=.", "model.checkpoint=null")


def hydras_own(overrides: tuple[str, ...]) -> Path:
    return Run(run_folder(composed(overrides))).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_cells_folder_is_the_one_that_hydra_gives_it(name: str) -> None:
    for cell in random.Random(name).sample(plan([name], NEEDS).cells, 3):
        assert cell.folder == hydras_own(cell.overrides)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("schedule.steps=${seed}",), ("seed=7",), ("++seed=7",)])
def test_a_rows_other_seeds_are_those_that_hydra_composes(overrides: tuple[str, ...]) -> None:
    cells = plan(["table1_digits"], overrides, (3, 4)).cells
    assert {cell.seed for cell in cells} == ({0, 3, 4} if "seed=" not in "".join(overrides) else {7})
    for cell in (cells[-1], cells[-2]):
        assert cell.folder == hydras_own(cell.overrides)
        assert cell.seed == composed(cell.overrides).seed


@pytest.mark.slow
def test_a_row_of_table_1_is_the_experiment_of_its_name() -> None:
    (cell,) = (cell for cell in plan(["table1_cifar10"]).cells if cell.title == "diff_pruning T=0.05")
    assert cell.folder == hydras_own(("experiment=cifar10_diff_pruning",))


@pytest.mark.slow
def test_identical_cells_of_different_tables_are_one_run() -> None:
    both = plan(["iso_compute_digits", "ratio_sweep_digits"], ["sampler.steps=10"])
    assert sum(len(cells) for _, _, cells in both.rows) == 38
    assert len(both.cells) == 22        # of iso_compute nothing is left that the sweep has not
    assert len({cell.folder for cell in both.cells}) == len(both.cells)


@pytest.mark.slow
def test_pruned_cells_of_iso_compute_share_a_model() -> None:
    cells = plan(["iso_compute_digits"], seeds=(0,)).cells
    assert len({cell.folder for cell in cells}) == 8
    assert len({cell.model for cell in cells if cell.title.startswith("pruned")}) == 1


@pytest.mark.slow
def test_later_overrides_take_the_place_of_earlier_ones() -> None:
    assert merged(["pruner=taylor", "seed=0", "pruner=random"]) == ("pruner=random", "seed=0")
    cells = plan(["table1_digits"], ["schedule=none", "seed=4"]).cells
    assert {cell.options["schedule"]["name"] for cell in cells} == {"none"}
    assert {cell.seed for cell in cells} == {4}
    assert len(cells) == 8


def test_an_option_of_a_table_is_left_out_of_rows_that_lack_its_stage() -> None:
    own = {cell.title: cell for cell in plan(["table1_digits"], seeds=(0,)).cells}
    cells = {cell.title: cell for cell in plan(["table1_digits"], ["schedule.lr=1e-3", "pruner.calibration_batch=8"],
                                               (0,)).cells}
    assert cells["dense"].folder == own["dense"].folder
    assert "schedule.lr=1e-3" in cells["magnitude"].overrides
    assert "pruner.calibration_batch=8" not in cells["magnitude"].overrides
    assert {"schedule.lr=1e-3", "pruner.calibration_batch=8"} <= set(cells["taylor"].overrides)


@pytest.mark.parametrize("override", ["schedule.steps=50", "schedule=distill", "++schedule.objective.output=1"])
def test_a_row_that_fine_tunes_nothing_stays_so(override: str) -> None:
    own = {cell.title: cell for cell in plan(["table1_digits"], seeds=(0,)).cells}
    cells = {cell.title: cell for cell in plan(["table1_digits"], [override, "sampler.steps=10"], (0,)).cells}
    assert cells["dense"].folder == plan(["table1_digits"], ["sampler.steps=10"], (0,)).cells[0].folder
    assert not [text for text in cells["dense"].overrides if "schedule." in text]
    assert override in cells["taylor"].overrides
    assert cells["taylor"].folder != own["taylor"].folder


@pytest.mark.parametrize("override", ["pruner.ratio=.5", "pruner.target.macs=.5", "pruner/timesteps=window"])
def test_a_row_that_removes_nothing_stays_so(override: str) -> None:
    dense, *others = plan(["table1_digits"], [override], (0,)).cells
    assert dense.folder == plan(["table1_digits"], seeds=(0,)).cells[0].folder
    assert any(override in cell.overrides for cell in others)


def test_an_option_of_a_table_needs_no_data_yet() -> None:
    cells = plan(["iso_compute_celeba"], ["pruner.round_to=8", "schedule.lr=1e-4"], (0,)).cells
    assert {cell.missing for cell in cells} == {("dataset.path",)}
    assert any("pruner.round_to=8" in cell.overrides for cell in cells)


def test_how_cells_are_submitted_is_no_part_of_them() -> None:
    cells = plan(["table1_digits"], ["launcher=slurm", "hydra.launcher.partition=long"], (0,)).cells
    assert not [text for cell in cells for text in cell.overrides if "launcher" in text]


@pytest.mark.slow
def test_a_table_is_the_group_of_its_cells_and_the_first_of_shared_ones() -> None:
    both, alone = plan(["ratio_sweep_digits", "table1_digits"], seeds=(0,)).cells, plan(["table1_digits"], seeds=(0,)).cells
    shared = [cell for cell in both if cell.folder in {cell.folder for cell in alone}]
    asked = [text for cell in shared for text in cell.overrides if text.startswith("logger.group=")]
    assert set(asked) == {"logger.group=ratio_sweep_digits", "logger.group=table1_digits"}
    assert asked.count("logger.group=ratio_sweep_digits") == 2      # the dense run and the one at ratio .3


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "group"), [
    ((), "table1_digits"), (("logger.group=mine",), "mine"), (("logger=none",), None)])
def test_the_group_is_no_part_of_a_name(overrides: tuple[str, ...], group: str | None) -> None:
    cell = plan(["table1_digits"], overrides, (0,)).cells[0]
    cfg = composed(cell.overrides)
    assert cfg.logger.get("group") == group
    assert Run(run_folder(cfg)).folder == cell.folder == plan(["table1_digits"], ["logger=none"], (0,)).cells[0].folder


@pytest.mark.slow
def test_the_group_reaches_a_batch_system_and_its_cell() -> None:
    (cell, *_) = plan(["table1_digits"], seeds=(0,)).cells
    assert "logger.group=table1_digits" in cell.described(False)["command"]
    again = lone(cell.overrides)
    assert (again.overrides, again.folder) == (cell.overrides, cell.folder)


def test_what_is_still_to_be_chosen_stops_a_start_not_a_plan() -> None:
    cells = plan(["table2_lsun_church"]).cells
    assert {cell.missing for cell in cells} == {("dataset.path",)}
    with pytest.raises(UserError, match=r"dataset\.path=…"):
        check_ready(cells)


@pytest.mark.parametrize("override", ["pruner.rato=.3", "pruner.ratio=many", "pruner=tayler"])
def test_a_typo_is_told_as_hydra_tells_it(override: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011  (Hydra has several)
        plan(["table1_digits"], [override], (0,))
    assert isinstance(error.value, ConfigCompositionException) or "hydra" in type(error.value).__module__
    assert override.partition("=")[0].rpartition(".")[2] in str(error.value)


@pytest.mark.parametrize(("override", "reason"), [
    ("pruner.ratio=1.5", "outside its range"), ("pruner.scope=near", "choose one of local, global")])
def test_what_no_run_could_use_is_refused_before_anything_is_planned(override: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(["table1_digits"], [override], (0,))


def test_a_file_that_is_not_here_stops_a_start_here_and_not_on_other_machines(caplog: pytest.LogCaptureFixture) -> None:
    cells = plan(["table1_cifar10"], ["dataset.path=/nosuch", "model.checkpoint=null"], (0,)).cells
    with pytest.raises(UserError, match=r"dataset\.path=/nosuch does not exist"):
        check_ready(cells)
    check_ready(cells, only_warn=True)
    assert caplog.messages == ["on this machine dataset.path=/nosuch does not exist: give the place of a local copy"]


def test_a_sweep_over_values_is_refused() -> None:
    with pytest.raises(UserError, match="one value"):
        plan(["table1_digits"], ["pruner.ratio=.1,.2"], (0,))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "status"])
def test_a_command_on_the_largest_table_takes_five_seconds_of_a_core(tmp_path: Path, command: str) -> None:
    """As a person calls it, its start included."""
    largest = max(names(), key=lambda name: (len(rows := table(name).rows), sum(len(row.seeds) for row in rows)))
    started = NewPython([sys.executable, "-m", "experiments", command, largest, f"paths.runs={tmp_path}"], cwd=ROOT,
                        stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(started.pid, 0)
    assert status == 0
    assert used.ru_utime + used.ru_stime < 5
