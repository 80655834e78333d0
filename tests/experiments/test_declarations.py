"""The declarations of tables and figures, and the published numbers that they point to."""

from pathlib import Path

import pytest
import yaml

from diffprune.runtime.errors import UserError
from experiments.planning.declarations import datasets, names, read, table
from experiments.reporting.against_published import published

DATASETS = ("digits", "cifar10", "celeba", "lsun_church", "lsun_bedroom", "imagenet")


def test_every_table_and_figure_is_declared() -> None:
    families = ("ratio_sweep", "threshold_sweep", "timestep_ablation", "iso_compute")
    assert {"table1_cifar10", "table1_celeba", "table1_digits", "table2_lsun_church", "table2_lsun_bedroom",
            "table3_imagenet", "method_digits", "healing_curve_digits", "compensation_digits", "objectives_digits",
            "pareto_digits", "timesteps_digits",
            *(f"{family}_{dataset}" for family in families for dataset in DATASETS)} == set(names())
    assert set(datasets()) == set(DATASETS)


@pytest.mark.parametrize("name", sorted(names()))
def test_every_placeholder_is_filled_and_every_row_is_another(name: str) -> None:
    rows = table(name).rows
    assert len({(row.title, row.overrides) for row in rows}) == len({row.title for row in rows}) == len(rows)
    assert "{" not in " ".join(text for row in rows for text in (row.title, *row.overrides))


@pytest.mark.parametrize("name", ["table1_cifar10", "table1_celeba", "table2_lsun_church", "table2_lsun_bedroom"])
def test_every_row_of_the_papers_tables_has_its_published_number(name: str) -> None:
    declared = table(name)
    for row in declared.rows:
        assert published().find("rows", declared.dataset, row.published)["fid"] > 0, row.title


def test_a_row_points_to_its_own_number() -> None:
    found = {row.title: published().find("rows", "cifar10", row.published)["fid"] for row in table("table1_cifar10").rows}
    assert found == {"dense": 4.19, "scratch": 9.88, "random": 5.62, "magnitude": 5.48, "taylor": 5.56,
                     "first_order_taylor": 5.56, "diff_pruning T=0.0": 5.49, "diff_pruning T=0.02": 5.44,
                     "diff_pruning T=0.05": 5.29}
    sweep = {row.title: published().find("rows", "celeba", row.published).get("fid")
             for row in table("ratio_sweep_celeba").rows}
    assert sweep["ratio 0.3"] == 6.24
    assert sweep["ratio 0.4"] is None


def test_the_timestep_ablation_keeps_as_many_as_it_says() -> None:
    rows = table("timestep_ablation_cifar10").rows
    assert [row.at["kept"] for row in rows] == list(range(50, 1001, 50))
    assert "pruner.timesteps.last=49" in rows[0].overrides
    assert published().find("timestep_ablation", "cifar10", rows[0].published)["ssim"] == 0.7882
    assert published().find("timestep_ablation", "cifar10", rows[-1].published)["ssim"] == 0.8361


def test_the_published_numbers_are_those_that_were_seen(shared: Path) -> None:
    seen = yaml.safe_load((shared / "paper_results.yaml").read_text())
    for setting in DATASETS[1:]:
        assert published().settings[setting]["rows"] == seen[setting]["rows"]
    assert published().settings["timestep_ablation"] == seen["timestep_ablation"]


def test_seeds_replace_the_tables_own_but_not_a_rows() -> None:
    rows = {row.title: row.seeds for row in table("table1_digits", (5, 6)).rows}
    assert rows["random"] == (5, 6)
    assert rows["dense"] == (0,)


@pytest.mark.parametrize(("declared", "words"), [
    ("about: x\ndataset: digits\nrow: []", "row is no key"), ("about: x\ndataset: digits\nrows: [{tittle: a}]", "tittle"),
    ("about: x\ndataset: digits\nrows: [{title: a, overrides: ['pruner={what}']}]", "{what} is no placeholder")])
def test_a_mistake_in_a_declaration_is_named(tmp_path: Path, declared: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(declared)
    with pytest.raises(UserError, match=words):
        read("mine", tmp_path / "mine.yaml", "digits")


def test_an_unknown_table_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="table1_digits"):
        table("table9")
