"""Ours beside the published: every cell has its status, and the files tell it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffprune.report.rows import Spread
from experiments.__main__ import main
from experiments.beside import QUALITY, SIZES, Line, markdown, matches, quantities, records
from experiments.cells import Cell
from experiments.declared import Row, table
from experiments.estimate import estimates
from experiments.picture import picture
from experiments.reports import missing
from tests.conftest import ROOT

FID, SSIM = QUALITY[:2]
PARAMS = SIZES[0]
TABLE = table("table1_cifar10")
ROWS = {row.title: row for row in TABLE.rows}


def cell(folder: Path, seed: int = 0, steps: int = 100_000, **changed: Any) -> Cell:
    options = {"sampler": {"steps": 100, "guidance": None}, "schedule": {"steps": steps, "batch": 128},
               "pruner": {"ratio": 0.3, "threshold": 0.05, "calibration_batch": 128}, "model": {"name": "ddpm_cifar10"},
               "evaluate": {"images": 49984, "features": "inception"},
               "dataset": {"name": "cifar10", "resolution": 32, "channels": 3}}
    return Cell("diff_pruning T=0.05", seed, (), options, folder / f"run-{seed}", "evaluate", ())


def finished(one: Cell, fid: float, ssim: float = 0.932, **changed: Any) -> Cell:
    """`one` with the metrics of a run under the published conditions, but for what is `changed`."""
    protocol = {"steps": 100, "spacing": "quad", "eta": 0.0, "images": 49984} | changed.pop("protocol", {})
    one.folder.mkdir(parents=True)
    one.run.metrics.write_text(json.dumps({
        "params": 19_851_157, "macs": 3_392_800_000, "fid": fid, "ssim": ssim, "features": "inception", "images": 49984,
        "protocol": protocol, "seconds": {"score": 10.0, "finetune": 1000.0, "sample": 100.0, "evaluate": 20.0},
        "model": "ddpm_cifar10", **changed}))
    return one


def line(*cells: Cell, row: Row = ROWS["diff_pruning T=0.05"]) -> Line:
    return Line.of(TABLE, row, list(cells))


@pytest.mark.parametrize(("ours", "theirs", "verdict"), [
    (Spread(5.39, None, 1), 5.29, True), (Spread(5.40, None, 1), 5.29, False), (Spread(5.60, 0.11, 3), 5.29, True),
    (Spread(5.60, 0.05, 3), 5.29, False), (Spread(0.0, 0.0, 3), 0.0, True)])
def test_the_tolerance_is_three_deviations_or_two_percent(ours: Spread, theirs: float, verdict: bool) -> None:
    assert matches(ours, theirs) == verdict


def test_a_number_near_the_published_one_matches(tmp_path: Path) -> None:
    one = line(finished(cell(tmp_path), 5.31))
    assert [one.status(quantity) for quantity in (PARAMS, FID, SSIM)] == ["matches"] * 3
    assert one.summary((PARAMS, FID)) == "matches: params, fid"


def test_a_number_far_from_it_differs_by_so_much(tmp_path: Path) -> None:
    one = line(finished(cell(tmp_path), 6.29))
    assert one.status(FID) == "differs"
    assert one.summary((PARAMS, FID)) == "matches: params; differs: fid +1.00"


def test_what_was_not_run_is_said_with_its_reason(tmp_path: Path) -> None:
    from diffprune.errors import UserError
    from diffprune.standing import note
    one = cell(tmp_path)
    assert line(one).status(FID) == "not run"
    note(one.run, "evaluate", UserError("no space"))
    assert line(one).status(FID) == "not run (failed: no space)"


def test_seeds_that_are_missing_are_counted(tmp_path: Path) -> None:
    cells = [finished(cell(tmp_path, 0), 5.2), finished(cell(tmp_path, 1), 5.4), cell(tmp_path, 2)]
    assert line(*cells).summary((FID,)) == "matches: fid (2 of 3 seeds)"


@pytest.mark.parametrize(("changed", "words"), [
    ({"features": "cifar-cnn"}, "features cifar-cnn, published inception"),
    ({"images": 1024}, "images 1024, published 49984 or 50000"),
    ({"protocol": {"spacing": "uniform"}}, "spacing uniform, published quad")])
def test_what_was_made_otherwise_is_not_comparable_and_why(tmp_path: Path, changed: dict, words: str) -> None:
    one = line(finished(cell(tmp_path), 5.29, **changed))
    assert one.status(FID) == f"not comparable: {words}"
    assert one.status(PARAMS) == "matches"


def test_a_shorter_healing_is_not_comparable(tmp_path: Path) -> None:
    one = line(finished(cell(tmp_path, steps=300), 5.29))
    assert one.status(FID) == "not comparable: trained for 300 steps, published 100000"


def test_a_dense_row_compares_whatever_it_was_trained_for(tmp_path: Path) -> None:
    assert line(finished(cell(tmp_path, steps=0), 4.19), row=ROWS["dense"]).status(FID) == "matches"


def test_what_nobody_published_is_no_difference(tmp_path: Path) -> None:
    row = replace(ROWS["dense"], published={})
    assert line(finished(cell(tmp_path), 4.19), row=row).summary((FID,)) == "nothing published"


def test_the_files_hold_every_cell(tmp_path: Path) -> None:
    lines = [line(finished(cell(tmp_path / "a"), 5.29)), line(cell(tmp_path / "b"), row=ROWS["random"])]
    shown = quantities(lines, "")
    assert [one.key for one in shown] == ["params", "macs", "fid", "ssim"]
    text = markdown(lines, shown)
    assert "| random | – | – | – | – | 19.8 | 3.4 | 5.62 | 0.926 | not run |" in text
    read = list(csv.DictReader(records(lines, shown).splitlines()))
    assert len(read) == 8
    assert {entry["status"] for entry in read} == {"matches", "not run"}
    (fid,) = (entry for entry in read if entry["quantity"] == "fid" and entry["row"] == "random")
    assert (fid["ours"], fid["published"]) == ("", "5.62")


def test_the_picture_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    lines = [line(finished(cell(tmp_path), 5.29))]
    drawn = picture(TABLE, lines, quantities(lines, ""))
    assert drawn == picture(TABLE, lines, quantities(lines, ""))
    assert "diff_pruning T=0.05" in drawn
    assert picture(TABLE, [line(cell(tmp_path / "b"))], []) is None


def test_a_curve_lies_over_what_its_rows_declare_or_measured(tmp_path: Path) -> None:
    sweep = table("iso_compute_cifar10")
    lines = [Line.of(sweep, row, [finished(cell(tmp_path / row.title), 5.0 + i)]) for i, row in enumerate(sweep.rows)]
    assert lines[0].runs[0]["total_macs"] == 3_392_800_000 * 100
    drawn = picture(sweep, lines, quantities(lines, "total_macs"))
    for word in ("MACs of an image, all steps", "dense", "pruned", "published"):
        assert word in drawn


def test_an_estimate_says_what_it_rests_on(tmp_path: Path) -> None:
    (guess,) = estimates([cell(tmp_path)])
    assert "MAC/s" in guess.basis
    past, wanted = finished(cell(tmp_path, 0), 5.29), cell(tmp_path, 1)
    past.run.progress.parent.mkdir()
    past.run.progress.write_text('{"step": 100000, "loss": 1.0, "lr": 1.0, "seconds": 1000.0}\n')
    (guess,) = estimates([wanted])
    assert guess.basis == "1 finished runs of this model"
    assert guess.seconds == pytest.approx(1130)


def test_a_model_that_several_share_is_counted_once(tmp_path: Path) -> None:
    one = cell(tmp_path)
    few = replace(one, seed=1, options=one.options | {"sampler": {"steps": 10, "guidance": None}})
    first, second = estimates([one, few])
    assert second.seconds < first.seconds / 10


def test_the_kept_table_is_that_of_the_kept_runs(tmp_path: Path, capsys) -> None:
    kept = ROOT / "experiments" / "results"
    assert main(["report", "table1_digits", f"paths.runs={kept}", "--out", str(tmp_path), "--no-page"]) == 0
    assert "diff_pruning" in capsys.readouterr().out
    for name in ("table1_digits.md", "table1_digits.csv", "table1_digits.svg"):
        assert (tmp_path / name).read_text() == (kept / name).read_text()


def test_a_page_names_the_cells_that_are_not_done_and_why(tmp_path: Path) -> None:
    done, waiting = cell(tmp_path / "a"), cell(tmp_path / "b", seed=1)
    finished(done, 5.3)
    assert missing([line(done, waiting)]) == [(waiting.name, "waiting")]
