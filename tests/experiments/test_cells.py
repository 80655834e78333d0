"""A cell is the run that Hydra would make of its overrides, found without composing it."""

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from diffprune.config.naming import run_folder
from diffprune.runs.run import Run
from diffprune.runs.status import Standing
from diffprune.runtime.errors import UserError
from experiments.planning.cells import check_ready, lone, merged, plan
from experiments.planning.composed import CONF, Composer, composed, groups
from experiments.planning.declarations import names
from tests.conftest import ROOT

TABLES = [name for name in names() if not name.startswith("timestep_ablation") or (CONF / "pruner" / "timesteps").exists()]
NEEDS = ("dataset.path=.", "model.checkpoint=null")


def hydras_own(overrides: tuple[str, ...]) -> Path:
    return Run(run_folder(composed(overrides))).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_cells_folder_is_the_one_that_hydra_gives_it(name: str) -> None:
    by_choices = defaultdict(list)
    for cell in plan([name], NEEDS).cells:
        by_choices[groups(cell.overrides)].append(cell)
    for alike in by_choices.values():
        cell = random.Random(name).choice(alike)
        assert cell.folder == hydras_own(cell.overrides)


@pytest.mark.parametrize("overrides", [
    ("seed=-3",), ("seed=007",), ("pruner.ratio=0", "schedule.steps=10"),
    ("pruner.ratio=1e-1", "schedule.clip=null", "seed=3", "precision=bf16"), ("sampler.guidance=2", "pruner.ratio=0"),
    ("dataset=cifar10", "model.source.address=/x"), ("pruner.thresholds=[0,.05]", "seed=1"),
    ("schedule.betas=[.8,.9]", "+pruner.x=1")])
def test_values_are_set_as_hydra_sets_them(overrides: tuple[str, ...]) -> None:
    composer = Composer()
    for _ in range(2):      # what was set for one run is not there for the next
        assert composer.options(overrides) == OmegaConf.to_container(composed(overrides), resolve=True)
        assert composer.options(("seed=7",))["pruner"]["ratio"] == 0.3


def test_a_row_of_table_1_is_the_experiment_of_its_name() -> None:
    (cell,) = (cell for cell in plan(["table1_cifar10"]).cells if cell.title == "diff_pruning T=0.05")
    assert cell.folder == hydras_own(("experiment=cifar10_diff_pruning",))


def test_identical_cells_of_different_tables_are_one_run() -> None:
    both = plan(["iso_compute_digits", "ratio_sweep_digits"], ["sampler.steps=10"])
    assert sum(len(cells) for _, _, cells in both.rows) == 38
    assert len(both.cells) == 22        # of iso_compute nothing is left that the sweep has not
    assert len({cell.folder for cell in both.cells}) == len(both.cells)


def test_pruned_cells_of_iso_compute_share_a_model() -> None:
    cells = plan(["iso_compute_digits"], seeds=(0,)).cells
    assert len({cell.folder for cell in cells}) == 8
    assert len({cell.model for cell in cells if cell.title.startswith("pruned")}) == 1


def test_later_overrides_take_the_place_of_earlier_ones() -> None:
    assert merged(["pruner=taylor", "seed=0", "pruner=random"]) == ("pruner=random", "seed=0")
    cells = plan(["table1_digits"], ["schedule=none", "seed=4"]).cells
    assert {cell.options["schedule"]["name"] for cell in cells} == {"none"}
    assert {cell.seed for cell in cells} == {4}
    assert len(cells) == 8


def test_how_cells_are_submitted_is_no_part_of_them() -> None:
    cells = plan(["table1_digits"], ["launcher=slurm", "hydra.launcher.partition=long"], (0,)).cells
    assert not [text for cell in cells for text in cell.overrides if "launcher" in text]


def test_a_table_is_the_group_of_its_cells_and_the_first_of_shared_ones() -> None:
    both, alone = plan(["ratio_sweep_digits", "table1_digits"], seeds=(0,)).cells, plan(["table1_digits"], seeds=(0,)).cells
    shared = [cell for cell in both if cell.folder in {cell.folder for cell in alone}]
    asked = [text for cell in shared for text in cell.overrides if text.startswith("logger.group=")]
    assert set(asked) == {"logger.group=ratio_sweep_digits", "logger.group=table1_digits"}
    assert asked.count("logger.group=ratio_sweep_digits") == 2      # the dense run and the one at ratio .3


@pytest.mark.parametrize(("overrides", "group"), [
    ((), "table1_digits"), (("logger.group=mine",), "mine"), (("logger=none",), None)])
def test_the_group_is_no_part_of_a_name(overrides: tuple[str, ...], group: str | None) -> None:
    cell = plan(["table1_digits"], overrides, (0,)).cells[0]
    cfg = composed(cell.overrides)
    assert cfg.logger.get("group") == group
    assert Run(run_folder(cfg)).folder == cell.folder == plan(["table1_digits"], ["logger=none"], (0,)).cells[0].folder


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


def test_a_sweep_over_values_is_refused() -> None:
    with pytest.raises(UserError, match="one value"):
        plan(["table1_digits"], ["pruner.ratio=.1,.2"], (0,))


@pytest.mark.parametrize("others", [
    ("dataset=digits",), ("dataset=cifar10", "schedule=none"), ("dataset=imagenet", "model=ldm_imagenet")])
def test_pruners_composed_together_are_hydras(others: tuple[str, ...]) -> None:
    names = ("random", "diff_pruning", "none")
    composer = Composer(names)
    for name in names:     # the second is of a type of its own, after one that is not
        made, whole = composer.base((*others, f"pruner={name}")).cfg, composed((*others, f"pruner={name}"))
        assert OmegaConf.to_container(made) == OmegaConf.to_container(whole)
        assert OmegaConf.get_type(made, "pruner") is OmegaConf.get_type(whole, "pruner")


@pytest.mark.parametrize("overrides", [
    ("pruner=diff_pruning", "pruner/timesteps=window"), ("experiment=smoke", "pruner=random")])
def test_what_is_more_than_a_choice_hydra_composes_in_full(overrides: tuple[str, ...]) -> None:
    composer = Composer(("random", "magnitude", "diff_pruning"))
    composer.base(("pruner=magnitude",))
    assert OmegaConf.to_container(composer.base(overrides).cfg) == OmegaConf.to_container(composed(overrides))


@pytest.fixture(params=[1002, 10_004])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The words of a command on so many cells of a table, all of them with a folder, half of them done."""
    words = ["table1_digits", "--seeds", ",".join(map(str, range((request.param - 1) // 7))), f"paths.runs={tmp_path}"]
    cells = plan(words[:1], words[3:], tuple(range((request.param - 1) // 7))).cells
    assert len(cells) == request.param
    for i, cell in enumerate(cells):
        cell.folder.mkdir(parents=True)
        cell.run.standing.write_text(json.dumps(asdict(Standing("done" if i % 2 else "failed", reason="why"))))
        if i % 2:
            cell.run.metrics.write_text(json.dumps({"model": "ddpm_digits", "seconds": {}, "images": 1, "protocol": {}}))
    return words


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "status"])
def test_a_command_on_a_thousand_cells_takes_two_seconds_of_a_core(ledger: list[str], command: str) -> None:
    """As a person calls it, its start and the reading of all folders included; ten thousand take five times as long."""
    started = subprocess.Popen([sys.executable, "-m", "experiments", command, *ledger], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(started.pid, 0)
    assert status == 0
    assert used.ru_utime + used.ru_stime < (2 if len(ledger[2]) < 1000 else 10)
