"""Ours beside the published: every cell has its status, and the files tell it."""

import csv
import json
from dataclasses import replace
from inspect import isabstract
from pathlib import Path
from typing import Any

import pytest

from diffprune.pruning import criteria
from diffprune.report.tables.quantities import Quantity
from diffprune.report.tables.rows import Spread
from diffprune.runtime.errors import UserError
from experiments.commands import main
from experiments.planning.cells import Cell
from experiments.planning.declarations import Row, Table, table
from experiments.planning.estimate import CPU, GPU, INCEPTION, WITHOUT_GRADIENTS, Device, estimates
from experiments.reporting.against_published import Line, axes, beside, comparable, matches
from experiments.reporting.files import document, missing, under_way
from experiments.reporting.table_figure import table_figure

PARAMS, FID, SSIM = (Quantity("params", "", 1e-6), Quantity("fid_inception", ""), Quantity("ssim", "", decimals=3))
HERE = Device(False, "none is here")
TABLE = table("table1_cifar10")
ROWS = {row.title: row for row in TABLE.rows}


def cell(folder: Path, seed: int = 0, steps: int = 100_000, ratio: float = 0.3, **changed: Any) -> Cell:
    options = {"seed": seed, "sampler": {"steps": 100, "guidance": None}, "schedule": {"steps": steps, "batch": 128},
               "pruner": {"ratio": ratio, "threshold": 0.05, "calibration_batch": 128,
                          "criterion": {"_target_": "diffprune.pruning.criteria.DiffPruning"}},
               "model": {"name": "ddpm_cifar10", "checkpoint": "a"}, "evaluate": {"images": 49984, "features": "inception"},
               "dataset": {"name": "cifar10", "resolution": 32, "channels": 3}}
    return Cell("diff_pruning T=0.05", seed, (), options, folder / f"run-{seed}", "evaluate", ())


def finished(one: Cell, fid: float, ssim: float = 0.932, **changed: Any) -> Cell:
    """`one` with the metrics of a run under the published conditions, but for what is `changed`."""
    protocol = {"steps": 100, "spacing": "quad", "eta": 0.0, "images": 49984} | changed.pop("protocol", {})
    one.run.config.parent.mkdir(parents=True)
    one.run.config.write_text(json.dumps(one.options))
    one.run.metrics.write_text(json.dumps({
        "name": one.run.name, "schedule": "finetune", "seed": one.seed,
        "params": 19_851_157, "macs": 3_392_800_000, "params_dense": 35_746_307, "macs_dense": 6_065_500_000, "fid": fid,
        "fid_dense": 4.19, "ssim": ssim, "features": "inception", "images": 49984, "protocol": protocol,
        "seconds": {"score": 10.0, "finetune": 1000.0, "sample": 100.0, "evaluate": 20.0}, "model": "ddpm_cifar10",
        "pruner": "diff_pruning", "dataset": "cifar10", **changed}))
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
    from diffprune.runs.status import note
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
    assert line(finished(cell(tmp_path, steps=0, ratio=0.0), 4.19), row=ROWS["dense"]).status(FID) == "matches"


def test_what_nobody_published_is_no_difference(tmp_path: Path) -> None:
    row = replace(ROWS["dense"], published={})
    assert line(finished(cell(tmp_path), 4.19), row=row).summary((FID,)) == "nothing published"


def test_the_files_hold_every_cell(tmp_path: Path) -> None:
    shown = beside([line(finished(cell(tmp_path / "a"), 5.29)), line(cell(tmp_path / "b"), row=ROWS["random"])])
    assert [title for title in shown.header if "Fréchet" in title] == [
        "Fréchet distance (inception features) ↓", "Fréchet distance, published ↓"]
    own, unknown = (dict(zip(shown.header, entries, strict=True)) for entries in shown.body)
    assert own["parameters [M]"] == "19.85 (55.5 %)"
    assert unknown["Fréchet distance (inception features) ↓"] == "–"
    assert (unknown["Fréchet distance, published ↓"], unknown["status"]) == ("5.62", "not run")
    first, second = csv.DictReader(shown.csv().splitlines())
    assert (first["fid_inception"], first["fid_inception_n"], first["fid_inception_status"]) == ("5.29", "1", "matches")
    assert (second["fid_inception"], second["fid_inception_published"], second["ssim_status"]) == ("", "5.62", "not run")
    assert shown.header[-1] == "status"
    assert r"Fréchet distance (inception features) $\downarrow$" in shown.latex()


def test_a_mean_says_of_how_many_seeds_also_where_all_agree(tmp_path: Path) -> None:
    shown = beside([line(*(finished(cell(tmp_path, seed), 5.3) for seed in (0, 1, 2)))])
    assert "5.30 ± 0.00 (3)" in shown.markdown()


def test_distances_on_other_features_stand_in_another_column(tmp_path: Path) -> None:
    shown = beside([line(finished(cell(tmp_path / "a"), 5.29)),
                    line(finished(cell(tmp_path / "b"), 1.5, features="cifar-cnn"))])
    columns = {title: [entries[i] for entries in shown.body] for i, title in enumerate(shown.header)}
    assert columns["Fréchet distance (cifar-cnn features) ↓"] == ["–", "1.50"]
    assert columns["Fréchet distance (inception features) ↓"] == ["5.29", "–"]
    assert "not comparable: features cifar-cnn, published inception" in columns["status"][1]


def test_seeds_under_different_protocols_are_refused_or_told_apart(tmp_path: Path) -> None:
    lines = [line(finished(cell(tmp_path, 0), 5.2), finished(cell(tmp_path, 1), 9.9, protocol={"images": 64}))]
    with pytest.raises(UserError, match=r"diff_pruning T=0\.05 .*images is 49984 or 64.*--mixed-protocols"):
        comparable(TABLE, lines, False)
    parts = comparable(TABLE, lines, True)
    assert [one.row.title.rpartition(" [")[2] for one in parts] == ["images 49984]", "images 64]"]
    assert [one.ours(FID).n for one in parts] == [1, 1]
    assert [len(one.cells) for one in parts] == [1, 1]


def test_rows_may_differ_only_in_what_the_table_varies(tmp_path: Path) -> None:
    def lines(of: Table, folder: Path, *protocols: dict[str, Any]) -> list[Line]:
        return [Line.of(of, row, [finished(cell(folder / row.title), 5.0, protocol=protocol)])
                for row, protocol in zip(of.rows, protocols, strict=False)]

    sweep = table("iso_compute_cifar10")
    assert axes(sweep) == {"steps"}
    assert axes(table("table3_imagenet")) == {"guidance"}
    assert axes(TABLE) == set()
    assert len(comparable(sweep, lines(sweep, tmp_path / "a", {"steps": 100}, {"steps": 50}), False)) == 2
    for of, protocol in ((sweep, {"spacing": "uniform"}), (TABLE, {"steps": 50})):
        some = lines(of, tmp_path / of.name, {}, protocol)
        with pytest.raises(UserError, match=of.name):
            comparable(of, some, False)
        shown = comparable(of, some, True)
        assert "Not all rows compare" in document(of, shown, beside(shown), False, ())


def test_the_protocol_stands_below_the_table(tmp_path: Path) -> None:
    lines = [line(finished(cell(tmp_path), 5.3))]
    assert "Protocol: features inception; steps 100; spacing quad; eta 0.0; images 49984." in document(
        TABLE, lines, beside(lines), False, ())


@pytest.mark.slow
def test_the_command_that_refuses_writes_nothing(tmp_path: Path) -> None:
    words = ["table1_cifar10", f"paths.runs={tmp_path}/runs"]
    from experiments.planning.cells import plan
    for number, one in enumerate(plan(["table1_cifar10"], words[1:]).cells[:2]):
        finished(one, 5.0, protocol={"images": 100 + number})
    with pytest.raises(SystemExit, match="images is 100 or 101"):
        main(["report", *words, "--out", str(tmp_path / "out"), "--no-page"])
    assert not (tmp_path / "out").exists()
    assert main(["report", *words, "--out", str(tmp_path / "out"), "--no-page", "--mixed-protocols"]) == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".csv", ".tex", ".svg", ".png"}


def test_a_number_at_an_unknown_guidance_is_not_comparable(tmp_path: Path) -> None:
    of = table("table3_imagenet")
    rows = {row.title: row for row in of.rows}
    under = {"steps": 250, "spacing": "uniform", "images": 50000}

    def status(title: str, guidance: float, **about: Any) -> str:
        one = finished(cell(tmp_path / title, **about), 9.16, images=50000, protocol=under | {"guidance": guidance})
        return Line.of(of, rows[title], [one]).status(FID)

    for guidance in (3.0, 1.5):
        assert status(f"diff_pruning T=0.1, guidance {guidance:g}", guidance) == "not comparable: guidance unknown"
    assert status("dense, guidance 1.5", 1.5, steps=0, ratio=0.0) == "differs"


def test_the_figure_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    lines = [line(finished(cell(tmp_path), 5.29))]
    drawn = table_figure(TABLE, lines)
    assert drawn == table_figure(TABLE, lines)
    for word in ("diff_pruning T=0.05", "one seed", "mean", "published"):
        assert word in drawn.svg
    assert drawn.png.startswith(b"\x89PNG")
    assert table_figure(TABLE, [line(cell(tmp_path / "b"))]) is None


def test_a_curve_lies_over_what_its_rows_declare_or_measured(tmp_path: Path) -> None:
    sweep = table("iso_compute_cifar10")
    lines = [Line.of(sweep, row, [finished(cell(tmp_path / row.title), 5.0 + i)]) for i, row in enumerate(sweep.rows)]
    assert lines[0].numbers[0]["total_macs"] == 3_392_800_000 * 100
    drawn = table_figure(sweep, lines).svg
    for word in ("MACs of an image, all steps", "dense", "pruned", "published"):
        assert word in drawn


@pytest.mark.parametrize(("words", "rate", "told"), [
    (["launcher=slurm"], GPU, "GPU (launcher=slurm)"), (["device=cuda:1"], GPU, "GPU (device=cuda:1)"),
    (["launcher=slurm", "device=cpu"], CPU, "CPU (device=cpu)"), (["device=auto"], CPU, "CPU (none is here")])
def test_the_rate_is_that_of_what_cells_will_run_on(words: list[str], rate: float, told: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.planning import estimate
    monkeypatch.setattr(estimate, "has_gpu", lambda: False)
    (guess,) = estimates([cell(tmp_path)], Device.of(["table1_cifar10", *words]))
    assert f"{rate:.0e} MAC/s, the rate of a {told}" in guess.basis
    (slow,) = estimates([cell(tmp_path)], HERE)
    assert guess.seconds == pytest.approx(slow.seconds * CPU / rate)


def test_runs_on_a_cpu_say_nothing_of_a_gpu(tmp_path: Path) -> None:
    finished(cell(tmp_path, 0), 5.29, device="x86_64 CPU, 2 threads")
    wanted = [cell(tmp_path, 1)]
    assert estimates(wanted, HERE)[0].basis == "1 finished runs of this model on x86_64 CPU, 2 threads"
    assert "launcher=slurm" in estimates(wanted, Device.of(["launcher=slurm"]))[0].basis


@pytest.mark.parametrize("content", ['{"name"', '{"name": "only"}', '{"speed": {}, "scores": {}}', "[]", '"text"'])
def test_an_estimate_leaves_out_a_run_that_cannot_be_read(tmp_path: Path, content: str, capsys) -> None:
    for seed in (0, 1):
        finished(cell(tmp_path, seed), 5.29)
    cell(tmp_path, 0).run.metrics.write_text(content)
    assert estimates([cell(tmp_path, 2)], HERE)[0].basis == "1 finished runs of this model"
    assert f"the estimate leaves out {cell(tmp_path, 0).folder}: " in capsys.readouterr().err


def test_an_estimate_says_what_it_rests_on(tmp_path: Path) -> None:
    (guess,) = estimates([cell(tmp_path)], HERE)
    assert "MAC/s" in guess.basis
    past, wanted = finished(cell(tmp_path, 0), 5.29), cell(tmp_path, 1)
    past.run.progress.parent.mkdir()
    past.run.progress.write_text('{"step": 100000, "loss": 1.0, "lr": 1.0, "seconds": 1000.0}\n')
    (guess,) = estimates([wanted], HERE)
    assert guess.basis == "1 finished runs of this model"
    assert guess.seconds == pytest.approx(1130)


def test_a_model_that_several_share_is_counted_once(tmp_path: Path) -> None:
    one = cell(tmp_path)
    few = replace(one, seed=1, options=one.options | {"sampler": {"steps": 10, "guidance": None}})
    first, second = estimates([one, few], HERE)
    assert second.seconds < first.seconds / 10


def test_what_runs_share_is_counted_with_the_first_of_them(tmp_path: Path) -> None:
    """5.9 GMACs of the dense model: 1000 timesteps of 128 images, forward and back, for the first run of a seed alone; the
    dense model's 49 984 images of 100 steps for the first run of all."""
    dense = cell(tmp_path / "dense", steps=0, ratio=0.0)
    again = replace(cell(tmp_path, seed=2), seed=1)
    runs = [dense, cell(tmp_path), cell(tmp_path, seed=1), again]
    for number, run in enumerate(runs[1:]):     # models of their own
        run.options["pruner"]["threshold"] = 0.01 * number
    seconds = [guess.seconds * CPU for guess in estimates(runs, HERE)]
    macs, kept = 6.1e9, 0.49
    drawing, features = 49_984 * 100 * macs, 49_984 * INCEPTION
    fine_tuned = 100_000 * 128 * 3 * macs * kept + drawing * kept + features
    scored = 1000 * 128 * 3 * macs
    expected = [drawing + features, fine_tuned + scored, fine_tuned + scored, fine_tuned]
    assert seconds == pytest.approx(expected, rel=0.02)


def test_the_criteria_that_take_no_gradients_are_known_without_importing_them() -> None:
    own = {name: criterion for name, criterion in vars(criteria).items()
           if isinstance(criterion, type) and issubclass(criterion, criteria.Criterion) and not isabstract(criterion)}
    assert {f"{criteria.__name__}.{name}" for name, one in own.items() if not one.gradient} == set(WITHOUT_GRADIENTS)


def test_a_run_with_more_micro_batches_needs_less_memory(tmp_path: Path) -> None:
    whole, parts = estimates([cell(tmp_path), replace(cell(tmp_path, 1), accumulate=8)], HERE)
    assert parts.memory < 0.4 * whole.memory


def test_a_page_names_the_cells_that_are_not_done_and_why(tmp_path: Path) -> None:
    done, waiting = cell(tmp_path / "a"), cell(tmp_path / "b", seed=1)
    finished(done, 5.3)
    assert missing([line(done, waiting)]) == [(waiting.name, "waiting")]


def test_the_time_in_which_runs_were_at_work_leaves_out_pauses() -> None:
    assert under_way([(0, 10), (5, 12), (20, 21)]) == (13, 2)
    assert under_way([(0, 5), (5, 6)]) == (6, 1)
