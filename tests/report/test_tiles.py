"""The numbers at the top of a page."""

from pathlib import Path

import pytest

from diffprune.report.finished import find, read_all
from diffprune.report.pages.tiles import Tile, tiles
from diffprune.report.tables.comparison import compare
from tests.report.test_report import COST, DENSE, DENSE_METRICS, make_run


def shown(folder: Path) -> dict[str, Tile]:
    runs, _ = read_all(find([folder])[0])
    return {tile.title: tile for tile in tiles(compare(runs), "digits-cnn", sorted({run.steps for run in runs}))}


def test_a_comparison_says_the_range_of_sizes_and_the_best_distance(tmp_path: Path) -> None:
    make_run(tmp_path / "a", **COST)
    make_run(tmp_path / "b", {"pruner": {"ratio": 0.5}}, params=9_000_000, fid=20.0, speedup=2.0, ssim=0.5)
    found = shown(tmp_path)
    assert found["parameters"] == Tile("parameters", "−44 % … −75 %", "9.00 … 19.85 of 35.75 M")
    assert found["measured speed-up"].value == "1.51 … 2.00×"
    assert found["Fréchet distance"] == Tile("Fréchet distance", "5.29",
                                             "dense 4.19, SSIM 0.932, best of 2: diff_pruning ratio=0.3")
    assert found["fine-tuning"] == Tile("fine-tuning", "400 steps", "0.900 T MACs, teachers included")


def test_what_was_not_measured_has_no_tile(tmp_path: Path) -> None:
    make_run(tmp_path / "a", speedup=None)
    assert "measured speed-up" not in shown(tmp_path)


@pytest.mark.parametrize("options", [DENSE])
def test_a_dense_model_alone_has_lost_nothing(tmp_path: Path, options: dict) -> None:
    make_run(tmp_path / "a", options, **DENSE_METRICS)
    found = shown(tmp_path)
    assert found["parameters"] == Tile("parameters", "35.75 M")
    assert found["Fréchet distance"] == Tile("Fréchet distance", "4.19")
    assert "fine-tuning" not in found
