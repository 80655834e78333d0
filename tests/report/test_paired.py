"""Seed by seed: what differs from a baseline by more than its seeds do."""

import csv
import math
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from diffprune.report.__main__ import main, report
from diffprune.report.finished import Finished, find
from diffprune.report.tables.paired import Difference, compare_paired, holm, paired_t_test
from diffprune.report.tables.quantities import Quantity
from diffprune.report.tables.table import Table
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from tests.report.test_report import References, cells, make_run

FID = Quantity("fid_digits-cnn", "Fréchet distance (digits-cnn features) ↓")


def make(folder: Path, pruner: str, fids: dict[int, float], **options) -> None:
    """One run of `pruner` for each {seed: its Fréchet distance}; SSIM falls as the distance grows."""
    for seed, fid in fids.items():
        made = make_run(folder / "runs" / f"{pruner}-{seed}-{len(options)}",
                        {"pruner": {"name": pruner}, "seed": seed, **options}, fid=fid, ssim=1 - fid / 100,
                        protocol=options.get("sampler", {}))
        Run(made).report.touch()        # its own page is another test's


def paired(folder: Path, baseline: str | None = None) -> Table | None:
    return compare_paired([Finished.of(run) for run in find([folder / "runs"])[0]], baseline)


def records(folder: Path, baseline: str | None = None) -> dict[str, dict]:
    """{configuration: the record of its Fréchet distance}"""
    return {record["configuration"]: record for record in paired(folder, baseline).records if record["quantity"] == FID.key}


def test_the_interval_and_p_are_those_of_students_t() -> None:
    (low, high), p = paired_t_test((1.0, 2.0, 3.0))     # t = 2 sqrt 3 on two degrees of freedom, quantile 4.3027
    assert (low, high) == (pytest.approx(2 - 4.302653 / math.sqrt(3)), pytest.approx(2 + 4.302653 / math.sqrt(3)))
    assert p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(2 + 12))     # the distribution's closed form for two
    one, other = [5.0, 5.5, 6.1, 4.9], [4.0, 4.9, 5.9, 4.2]
    assert paired_t_test([a - b for a, b in zip(one, other, strict=True)])[1] == pytest.approx(ttest_rel(one, other).pvalue)


@pytest.mark.parametrize(("value", "p"), [(0.5, 0.0), (0.0, 1.0)])
def test_equal_differences_leave_no_noise(value: float, p: float) -> None:
    assert paired_t_test((value,) * 3) == ((value, value), p)


def test_holm_corrects_the_least_p_most_and_keeps_their_order() -> None:
    found = [Difference(name, "base", FID, (1.0, 1.1), (0.0, 2.0), p) for name, p in
             (("a", 0.01), ("b", 0.04), ("c", 0.03), ("d", 0.9))]
    corrected = [difference.p_holm for difference in holm([*found, Difference("e", "base", FID, (1.0,))])]
    assert corrected[:4] == [pytest.approx(p) for p in (0.04, 0.09, 0.09, 0.9)]
    assert corrected[4] is None


@pytest.mark.parametrize(("title", "values", "interval", "p_holm", "verdict"), [
    ("Fréchet distance ↓", (1.0, 1.2), (0.5, 1.7), 0.01, "beyond the seeds' noise: worse"),
    ("Fréchet distance ↓", (-1.0, -1.2), (-1.7, -0.5), 0.01, "beyond the seeds' noise: better"),
    ("SSIM ↑", (1.0, 1.2), (0.5, 1.7), 0.01, "beyond the seeds' noise: better"),
    ("SSIM ↑", (1.0, 1.2), (0.5, 1.7), 0.2, "beyond the seeds' noise: better (not after Holm's correction)"),
    ("SSIM ↑", (1.0, -1.2), (-5.0, 5.0), 1.0, "within the seeds' noise"),
    ("SSIM ↑", (1.0,), None, None, "one seed: cannot say"), ("SSIM ↑", (), None, None, "no seed in common: cannot say")])
def test_the_verdict_follows_from_the_interval(title: str, values: tuple, interval: tuple | None, p_holm: float | None,
                                               verdict: str) -> None:
    assert Difference("a", "b", Quantity("x", title), values, interval, p_holm, p_holm).verdict == verdict


def test_runs_of_the_same_seed_are_subtracted_from_each_other(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 50.0, 2: 6.0})
    make(tmp_path, "random", {2: 7.1, 1: 51.0, 3: 9.0})
    record = records(tmp_path, "taylor")["random"]
    assert record["n"] == 2
    assert record["difference"] == pytest.approx((1.0 + 1.1) / 2)       # the seeds' own spread of 45 is not in it
    assert record["difference_std"] == pytest.approx(0.1 / math.sqrt(2))
    assert record["verdict"] == "beyond the seeds' noise: worse"
    ssim = [r for r in paired(tmp_path, "taylor").records if r["quantity"] == "ssim"]
    assert [r["verdict"] for r in ssim] == ["beyond the seeds' noise: worse"]


def test_the_baseline_is_the_best_of_those_with_seeds(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 5.4})
    make(tmp_path, "random", {0: 9.0, 1: 13.0})
    make(tmp_path, "magnitude", {0: 1.0})
    found = records(tmp_path)
    assert {record["baseline"] for record in found.values()} == {"taylor"}
    assert {title: record["verdict"].split(":")[0] for title, record in found.items()} == {
        "random": "within the seeds' noise", "magnitude": "one seed"}


def test_the_baseline_can_be_named_by_a_part_of_its_name(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 5.4})
    make(tmp_path, "random", {0: 9.0, 1: 9.9})
    make(tmp_path, "first_order_taylor", {0: 7.0, 1: 7.1})
    assert set(records(tmp_path, "rand")) == {"taylor", "first_order_taylor"}
    assert set(records(tmp_path, "taylor")) == {"random", "first_order_taylor"}     # the whole name goes before a part
    with pytest.raises(UserError, match="names 2 configurations: give one of first_order_taylor, random, taylor"):
        paired(tmp_path, "aylor")


def test_an_unknown_baseline_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0})
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--baseline", "nobody"])
    assert str(ended.value) == "error: --baseline 'nobody' names no configurations: give one of taylor"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_stands_beside_the_table_in_every_form(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 5.4})
    make(tmp_path, "random", {0: 9.0, 1: 9.5})
    said, out = report([tmp_path / "runs"], tmp_path / "out"), tmp_path / "out"
    header, *rows = cells((out / "paired.md").read_text())
    shown = dict(zip(header, rows[0], strict=True))
    assert (shown["configuration"], shown["difference"], shown["verdict"]) == (
        "random", "+4.05 ± 0.07 (2)", "beyond the seeds' noise: worse")
    assert [row[2] for row in rows] == [FID.title, "SSIM to dense ↑"]
    for text in (said, (out / "paired.tex").read_text().replace(r"$\pm$", "±"), (out / "index.html").read_text()):
        assert "+4.05 ± 0.07 (2)" in text
    assert "The baseline is the configuration with the best" in (out / "index.html").read_text()
    assert not References((out / "index.html").read_text()).unnamed
    (record, _) = csv.DictReader((out / "paired.csv").open())
    assert float(record["low"]) == pytest.approx(4.05 - 12.7062 * 0.05, abs=1e-3)     # Student's quantile for n - 1 = 1
    report([tmp_path / "runs"], out, baseline="random")
    assert "The baseline is the configuration" not in (out / "index.html").read_text()


@pytest.mark.slow
def test_one_configuration_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 5.4})
    make(tmp_path, "random", {0: 9.0, 1: 9.5})
    report([tmp_path / "runs"], tmp_path / "out")
    assert list((tmp_path / "out").glob("paired*"))
    report(list((tmp_path / "runs").glob("taylor*")), tmp_path / "out")
    assert not list((tmp_path / "out").glob("paired*"))


def test_different_protocols_are_never_subtracted(tmp_path: Path) -> None:
    make(tmp_path, "taylor", {0: 5.0, 1: 5.4})
    make(tmp_path, "random", {0: 9.0, 1: 9.5})
    make(tmp_path, "taylor", {0: 1.0, 1: 1.4}, sampler={"steps": 100})
    make(tmp_path, "random", {0: 2.0, 1: 2.5}, sampler={"steps": 100})
    found = records(tmp_path)
    assert {title: round(record["difference"], 2) for title, record in found.items()} == {
        "random steps=50": 4.05, "random steps=100": 1.05}
    assert found["random steps=100"]["baseline"] == "taylor steps=100"
