"""What a comparison's figures say, checked on their content before anything is drawn; and published numbers, bold, gaps."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import numpy as np
import pytest
from PIL import Image, ImageFont

from diffprune.report.__main__ import main
from diffprune.report.figures.channels import overlap, width_chart, widths
from diffprune.report.figures.chart import DENSE, Absent, Chart, Dots, Matrix, Panels, Series
from diffprune.report.figures.losses import held_out_curve, held_out_loss, loss_per_timestep, scoring_pass
from diffprune.report.figures.palette import LIGHT
from diffprune.report.figures.quality import quality_charts
from diffprune.report.figures.render import draw, file_name
from diffprune.report.figures.vega_lite import specification
from diffprune.report.finished import Finished, find, read_all
from diffprune.report.pages import samples
from diffprune.report.pages.files import drawings, figure_files, together
from diffprune.report.pages.page import shown_images
from diffprune.report.pages.runs_table import not_measured
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.configurations import configurations
from diffprune.report.tables.published import Published
from diffprune.runs.metrics import STATES
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from tests.report.test_report import COST, DENSE_METRICS, cells, make_run
from tests.report.test_report import DENSE as DENSE_OPTIONS

PAPER = """
digits:
  protocol: 50000 images
  rows:
    - {method: dense, params: 35.7, macs: 6.07, fid: 4.19, ssim: 1.0}
    - {method: diff_pruning, threshold: 0.02, params: 19.8, macs: 3.4, fid: 5.44, steps: 400}
    - {method: diff_pruning, threshold: 0.05, params: 19.8, macs: 3.4, fid: 5.29, ssim: 0.932, steps: 400}
    - {method: random, params: 30.0, macs: 5.0, fid: 5.62}
"""


def runs_in(folder: Path) -> list[Finished]:
    return [Finished.of(path) for path in find([folder])[0]]


def charts(folder: Path) -> dict[str, Chart]:
    return {chart.name: chart for chart in quality_charts(runs_in(folder), []) if isinstance(chart, Chart)}


def cut(folder: Path, removed: dict[str, list[int]], **options: Any) -> None:
    """A run that removed these channels of groups of ten."""
    run = Run(make_run(folder, options))
    report = json.loads(run.prune_report.read_text())
    report["groups"] = [{"root": root, "before": 10, "removed": channels} for root, channels in removed.items()]
    run.prune_report.write_text(json.dumps(report))


# --- figures

def test_quality_lies_over_what_was_achieved_with_the_dense_model_apart(tmp_path: Path) -> None:
    for seed, fid in enumerate((5.0, 6.0)):
        make_run(tmp_path / f"a{seed}", {"seed": seed}, fid=fid)
    make_run(tmp_path / "b", {"pruner": {"name": "random"}}, fid=9.0, macs=2e9)
    chart = charts(tmp_path)["fid-digits-cnn-macs"]
    assert {series.name: (series.x, series.y, series.colour) for series in chart.series} == {
        "dense": ([pytest.approx(6.0655)], [4.194], DENSE), "diff_pruning": ([pytest.approx(3.3928)], [5.5], 0),
        "random": ([2.0], [9.0], 1)}
    assert chart.series[1].y_error == [pytest.approx(0.5 ** 0.5)]
    assert "random 9.00 at 2" in chart.alt
    assert "[G]" in chart.x


def test_latency_is_what_was_measured_beside_the_dense_model(tmp_path: Path) -> None:
    make_run(tmp_path / "a", speedup=1.25)
    chart = charts(tmp_path)["ssim-latency"]
    assert [(series.name, list(series.x)) for series in chart.series] == [("dense", [100.0]), ("diff_pruning", [80.0])]


def test_quality_lies_over_the_cost_of_healing_of_runs_that_know_it(tmp_path: Path) -> None:
    make_run(tmp_path / "old", {"pruner": {"name": "random"}}, fid=9.0)
    assert not [name for name in charts(tmp_path) if "healing-macs" in name]
    make_run(tmp_path / "new", **COST)
    found = charts(tmp_path)
    assert [(series.name, series.x, series.y) for series in found["fid-digits-cnn-healing-macs"].series] == [
        ("diff_pruning", [pytest.approx(0.9)], [5.29])]
    seconds = {series.name: list(series.x) for series in found["ssim-healing-seconds"].series}
    assert seconds["diff_pruning"] == [40.0]


def test_a_curve_joins_what_differs_in_one_option_alone(tmp_path: Path) -> None:
    for ratio in (0.5, 0.1, 0.3):
        make_run(tmp_path / f"r{ratio}", {"pruner": {"ratio": ratio}}, fid=10 * ratio)
    make_run(tmp_path / "T", {"pruner": {"threshold": 0.2}}, fid=7.0)
    make_run(tmp_path / "lone", {"pruner": {"name": "random"}})
    found = charts(tmp_path)
    (by_ratio,), (by_threshold,) = found["fid-digits-cnn-ratio"].series, found["fid-digits-cnn-threshold"].series
    assert (by_ratio.x, by_ratio.y) == ([0.1, 0.3, 0.5], [1.0, 3.0, 5.0])
    assert (by_threshold.x, by_threshold.y) == ([0.05, 0.2], [3.0, 7.0])


def test_without_two_values_of_an_option_there_is_no_curve_of_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert not [name for name in charts(tmp_path) if name.endswith(("-ratio", "-threshold"))]


def test_overlap_is_what_both_removed_of_what_either_did_over_all_groups(tmp_path: Path) -> None:
    cut(tmp_path / "a", {"x": [0, 1], "y": [0]}, pruner={"name": "random"})
    cut(tmp_path / "b", {"x": [1, 2], "y": [0]}, pruner={"name": "taylor"})
    cut(tmp_path / "c", {"x": [9], "y": []}, pruner={"name": "magnitude"}, seed=5)
    matrix = overlap(configurations(runs_in(tmp_path), []))
    assert matrix.labels == ["magnitude", "random", "taylor"]
    assert matrix.values == [[1.0, None, None], [None, 1.0, 0.5], [None, 0.5, 1.0]]


def test_configurations_of_equal_widths_share_a_line(tmp_path: Path) -> None:
    for name in ("random", "taylor"):
        make_run(tmp_path / name, {"pruner": {"name": name}})
    chart = widths(configurations(runs_in(tmp_path), []))
    assert [series.name for series in chart.series] == ["dense", "random and taylor"]
    assert set(chart.series[1].y) == {96}


def test_where_all_have_the_same_macs_each_configuration_has_a_row_of_dots(tmp_path: Path) -> None:
    for seed, (random, taylor) in enumerate(((9.0, 3.0), (11.0, 5.0))):
        make_run(tmp_path / f"random-{seed}", {"pruner": {"name": "random"}, "seed": seed}, fid=random, ssim=0.5)
        make_run(tmp_path / f"taylor-{seed}", {"pruner": {"name": "taylor"}, "seed": seed}, fid=taylor, ssim=0.9)
    distance, likeness, *others = quality_charts(runs_in(tmp_path), [])
    assert isinstance(distance, Dots)
    assert distance.rows == [("taylor", [3.0, 5.0], None), ("random", [9.0, 11.0], None)]      # the best first
    assert [row[0] for row in likeness.rows] == ["taylor", "random"]
    assert distance.dense == 4.194
    assert distance.made == "n = 1024 images, seeds 0, 1; ddim uniform 50 steps; digits-cnn features"
    assert "against MACs" not in {other.title[-12:] for other in others}
    assert "dense" in draw(distance).svg
    assert distance.made in draw(distance).svg
    assert distance.made not in draw(distance).inline      # a page has it in the caption


def test_the_threshold_in_use_stands_out_and_the_others_answer_the_mouse(tmp_path: Path) -> None:
    run = Finished.of(make_run(tmp_path / "run"))
    chart = scoring_pass(replace(run, scoring=replace(run.scoring, stops={"0.05": 249, "0.1": 120})))
    assert chart.in_use == {"T = 0.05"}
    text = draw(chart).svg
    assert "T = 0.05" in text
    assert "T = 0.1" not in text
    assert "T = 0.1" in draw(chart).interactive


@pytest.mark.parametrize(("kept", "reasons"), [
    (False, {"scores.safetensors is not kept with these runs", "prune.json is not kept with these runs"}),
    (True, {"no criterion here made a scoring pass over the timesteps", "nothing was pruned"})])
def test_what_is_not_drawn_has_a_true_reason(tmp_path: Path, kept: bool, reasons: set[str]) -> None:
    run = Run(make_run(tmp_path / "run", DENSE_OPTIONS if kept else {}, **DENSE_METRICS, cost={"score": 0 if kept else 9}))
    run.scores.unlink()
    run.prune_report.unlink()
    runs = runs_in(tmp_path)
    assert {one.reason for one in (*loss_per_timestep(runs), widths([("a", runs)]))} == reasons


def test_the_loss_has_the_stop_of_every_threshold_that_stops(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (chart,) = loss_per_timestep(runs_in(tmp_path))
    assert chart.stops == [(249, "T = 0.05")]
    assert chart.series[0].x[:2] == [0, 4]
    assert chart.series[0].x[-1] == 999


HELD_OUT = {"dense": [8.0, 2.0], "before_healing": [32.0, 4.0], "final": [9.0, 3.0]}


def measured(folder: Path, losses: dict[str, list[float]] = HELD_OUT, curve: dict[str, float] | None = None) -> Finished:
    """A run whose loss on held-out images was measured, in its folder."""
    means = {f"held_out_loss{STATES[state]}": sum(values) / len(values) for state, values in losses.items()}
    run = Run(make_run(folder, held_out_losses=losses, **means))
    write_json(run.held_out_losses, {"0": 18.0, "100": 7.0, "50": 8.0} if curve is None else curve)
    return Finished.of(folder)


def test_the_loss_on_held_out_images_has_a_line_for_each_model(tmp_path: Path) -> None:
    chart = held_out_loss(measured(tmp_path / "a"))
    assert isinstance(chart, Chart)
    assert {series.name: (list(series.x), list(series.y), series.colour) for series in chart.series} == {
        "dense": ([25.0, 75.0], [8.0, 2.0], DENSE), "pruned before healing": ([25.0, 75.0], [32.0, 4.0], 0),
        "pruned and healed": ([25.0, 75.0], [9.0, 3.0], 1)}
    assert "pruned and healed: 9 to 3" in chart.alt


def test_without_a_dense_model_the_others_have_their_lines(tmp_path: Path) -> None:
    run = measured(tmp_path / "a", {"final": [9.0, 3.0], "before_healing": [32.0, 4.0]})
    chart, curve = held_out_loss(run), held_out_curve(run)
    assert isinstance(chart, Chart)
    assert isinstance(curve, Chart)
    assert [series.name for series in chart.series] == ["pruned before healing", "pruned and healed"]
    assert [series.name for series in curve.series] == ["averaged weights"]
    assert curve.alt.endswith("at step 100.")


def test_the_curve_of_a_training_is_in_the_order_of_its_steps_with_the_dense_loss(tmp_path: Path) -> None:
    chart = held_out_curve(measured(tmp_path / "a"))
    assert isinstance(chart, Chart)
    assert [(series.name, list(series.x), list(series.y)) for series in chart.series] == [
        ("averaged weights", [0, 50, 100], [18.0, 8.0, 7.0]), ("dense", [0, 100], [5.0, 5.0])]
    assert chart.alt.endswith("from 18 at step 0 to 7 at step 100. The dense model's is 5.")


def test_a_loss_that_was_not_measured_has_its_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert held_out_loss(Finished.of(tmp_path / "a")) == Absent("Loss on held-out images", "dataset.held_out=0 leaves none")
    reason = "it was measured at fewer than two steps (dataset.held_out, schedule.measure_every)"
    for run in (Finished.of(tmp_path / "a"), measured(tmp_path / "b", curve={"0": 18.0})):
        assert held_out_curve(run) == Absent("Loss on held-out images during training", reason)


def test_a_drawing_is_themed_on_the_page_and_plain_in_its_files() -> None:
    series = [Series("a", [1.0], [2.0]), Series("b", [2.0], [1.0])]
    chart = Chart("n", "title", "caption", "what <one> sees", "x [G]", "y", series)
    for shown in (chart, Matrix("m", "t", "c", "what <one> sees", "index", ["a", "b" * 30], [[1.0, None], [None, 1.0]])):
        drawing = draw(shown)
        assert 'aria-label="what &lt;one&gt; sees"' in drawing.inline
        for themed in (drawing.inline, drawing.interactive):
            assert "var(--c0)" in themed
            assert not [colour for colour in LIGHT.values() if colour in themed]
        assert "var(--" not in drawing.svg
        assert LIGHT["c0"] in drawing.svg
        assert drawing.png.startswith(b"\x89PNG")
        assert draw(shown) == drawing


@pytest.mark.slow
def test_every_kind_of_figure_is_valid_vega_lite() -> None:
    curve = Series("a", [1.0, 2.0], [1.0, 9.0], ["p", "q"], [0.1, None], [None, 0.5], line=True)
    chart = Chart("n", "t", "c", "a", "x", "y", [curve, Series("b", [1.0, 2.0], [2.0, 2.0], line=True, marks=False)],
                  [(1.5, "T")], log_x=True, log_y=True, spans=[(1.0, 1.5)])
    steps = replace(chart, stops=(), spans=(), log_x=False, log_y=False, ticks=[(1.0, "in"), (2.0, "it's out")])
    dots = Dots("d", "t", "c", "a", "x", [("r", [1.0, 2.0], 1.5), ("s", [], None)])
    matrix = Matrix("m", "t", "c", "a", "index", ["a", "b" * 30], [[1.0, None], [None, 1.0]])
    for shown in (chart, steps, matrix, Panels("p", "t", "c", "a", [chart, dots])):
        alt.Chart.from_dict(specification(shown))      # raises for what the schema does not know
    for word in ("in", "it's out"):
        assert word in unescape(draw(steps).svg)


def test_names_that_a_page_lists_itself_stand_in_the_files_alone() -> None:
    drawing = draw(Matrix("m", "t", "c", "a", "index", ["a", "b" * 30], [[1.0, None], [None, 1.0]]))
    assert "b" * 30 in drawing.svg
    assert "b" * 30 not in drawing.inline


def test_a_line_without_marks_says_its_values_on_the_page_and_has_no_invisible_points_in_files() -> None:
    drawing = draw(Chart("n", "t", "c", "a", "x", "y", [Series("a", [1.0, 2.0], [1.0, 2.0], line=True, marks=False)]))
    assert "hover" in {layer.get("name") for layer in json.loads(drawing.interactive)["layer"]}
    assert 'opacity="0"' not in drawing.svg


def test_what_is_called_like_a_tag_ends_no_script() -> None:
    drawing = draw(Chart("n", "t", "c", "a", "x", "y", [Series("</script><b>", [1.0], [1.0], ["</script>"])]))
    assert "</" not in drawing.interactive
    assert "<b>" not in drawing.inline


@pytest.mark.parametrize(("values", "ticks"), [
    ([1.0, 10_000.0], [1, 10, 100, 1000, 10_000]), ([3.0, 30.0], [5, 10, 20]), ([2.0, 5.0], [2, 3, 4, 5])])
def test_a_logarithmic_axis_has_plain_round_numbers(values: list[float], ticks: list[float]) -> None:
    shown = specification(Chart("n", "t", "c", "a", "x", "y", [Series("a", [1.0, 2.0], values)], log_y=True))
    y = shown["layer"][0]["encoding"]["y"]
    assert (y["axis"]["values"], y["axis"]["format"]) == (ticks, "~g")
    assert y["scale"]["domain"][0] < values[0] < values[1] < y["scale"]["domain"][1]


def test_an_error_bar_below_zero_ends_on_a_logarithmic_axis() -> None:
    chart = Chart("n", "t", "c", "a", "x", "y", [Series("a", [1.0, 2.0], [1.0, 50.0], y_error=[2.0, None])], log_y=True)
    (row, _) = specification(chart)["data"]["values"]
    assert (row["low"], row["high"]) == (1.0, 3.0)


def test_samples_are_cut_so_that_columns_share_noise_and_the_dense_model_comes_first(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", {"pruner": {"name": "random"}})
    (grid,) = samples.sample_grids(configurations(runs_in(tmp_path), []))
    assert [row.model for row in grid.rows] == ["dense", "diff_pruning", "random"]
    assert [row.images[3].getpixel((0, 0)) for row in grid.rows] == [50, 100, 100]
    assert {image.size for row in grid.rows for image in row.images} == {(8, 8)}
    assert grid.noises == 16


def test_another_sampler_is_another_grid_and_a_broken_picture_none(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", {"sampler": {"steps": 100}}, protocol={"steps": 100})
    Run(make_run(tmp_path / "c", {"pruner": {"name": "random"}})).grid.write_bytes(b"\x89PNG")
    grids = samples.sample_grids(configurations(runs_in(tmp_path), ["steps"]))
    assert [len(grid.rows) for grid in grids] == [2, 2]


def test_every_grid_has_its_own_title_and_file(tmp_path: Path) -> None:
    for steps in (50, 100):
        make_run(tmp_path / f"{steps}", {"sampler": {"steps": steps}}, protocol={"steps": steps})
    grids = samples.sample_grids(configurations(runs_in(tmp_path), ["steps"]))
    assert {grid.title for grid in grids} == {"ddpm_digits on digits, steps=50", "ddpm_digits on digits, steps=100"}
    assert {grid.file for grid in grids} == {"samples-ddpm_digits-digits-steps-50.png",
                                          "samples-ddpm_digits-digits-steps-100.png"}


@pytest.mark.parametrize("titles", [
    ["dense", "diff_pruning sampler.steps=100"], ["dense", "x" * 60], ["dense"], ["dense", *["taylor a.b=1 " * 12] * 3]])
def test_images_keep_their_room_in_a_picture_whatever_they_are_called(titles: list[str]) -> None:
    grey = [Image.new("L", (8, 8), 100)] * samples.NOISES
    picture = Image.open(io.BytesIO(samples.picture(samples.Samples("a", [samples.Row(title, grey) for title in titles]))))
    pixels = np.asarray(picture.convert("L"))
    assert (pixels == 100).sum() >= len(titles) * samples.NOISES * samples.WIDTH ** 2 > 0.2 * pixels.size
    for edge in (pixels[0], pixels[:, 0], pixels[-1], pixels[:, -1]):
        assert (edge == 255).all()      # no name is cut off


def test_a_name_is_broken_where_its_words_end_and_loses_no_letter() -> None:
    font = ImageFont.load_default(samples.FONT)
    title = "diff_pruning pruner.threshold=0.05 " + "x" * 60
    lines = samples.wrapped(title, font)
    assert lines[:2] == ["diff_pruning pruner.", "threshold=0.05"]
    assert "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert max(map(font.getlength, lines)) <= samples.NAMES


def noisy(size: int, count: int = 16) -> samples.Samples:
    """Images that no format stores in little room."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return samples.Samples("a", [samples.Row("dense", [Image.fromarray(image) for image in pixels])])


def test_small_images_lie_in_a_page_as_they_were_drawn() -> None:
    grid = noisy(8)
    ((first, *_),) = shown_images(grid, 100_000)
    assert (first.width, first.height) == (8, 8)
    stored = Image.open(io.BytesIO(base64.b64decode(first.url.partition("base64,")[2]))).convert("RGB")
    assert (np.asarray(stored) == np.asarray(grid.rows[0].images[0])).all()


@pytest.mark.parametrize("budget", [1_000_000, 100_000])
def test_large_images_take_no_more_room_than_they_are_given(budget: int) -> None:
    (images,) = shown_images(noisy(256), budget)
    assert budget / 20 < sum(len(image.url) for image in images) <= budget
    assert 16 < images[0].width <= 256


# --- published numbers, bold

def test_published_numbers_stand_beside_those_of_the_same_method_size_and_training(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(PAPER)
    make_run(tmp_path / "runs" / "a", features="inception")
    make_run(tmp_path / "runs" / "b", {"pruner": {"name": "random"}}, features="inception", fid=7.0)
    table = compare(runs_in(tmp_path / "runs"), published=Published.read(tmp_path / "paper.yaml"))
    shown = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.body}
    fid, ssim = "Fréchet distance, published ↓", "SSIM to dense, published ↑"
    assert {name: (row[fid], row[ssim]) for name, row in shown.items()} == {
        "dense": ("4.19", "1"), "diff_pruning": ("5.29", "0.932"), "random": ("–", "–")}     # random's sizes are others
    assert shown["diff_pruning"]["MACs, published [G]"] == "3.4"
    assert table.records[1]["fid_inception_published"] == 5.29


def test_a_distance_on_other_features_has_no_published_one(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(PAPER)
    make_run(tmp_path / "runs" / "a")
    table = compare(runs_in(tmp_path / "runs"), published=Published.read(tmp_path / "paper.yaml"))
    assert not [title for title in table.header if title.startswith("Fréchet distance, published")]


@pytest.mark.parametrize("content", [None, "a: [", "- 1"])
def test_a_file_without_published_numbers_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "paper.yaml").write_text(content)
    with pytest.raises(UserError, match=r"paper\.yaml"):
        Published.read(tmp_path / "paper.yaml")


def test_the_best_means_are_bold_and_the_dense_model_does_not_compete(tmp_path: Path) -> None:
    for name, fid, ssim in (("random", 9.0, 0.8), ("taylor", 3.0, 0.9), ("magnitude", 5.0, 0.9)):
        make_run(tmp_path / name, {"pruner": {"name": name}}, fid=fid, ssim=ssim)
    table = compare(runs_in(tmp_path))
    assert {(table.body[i][0], table.header[j]) for i, j in table.best} == {
        ("taylor", "Fréchet distance (digits-cnn features) ↓"), ("taylor", "SSIM to dense ↑"),
        ("magnitude", "SSIM to dense ↑")}
    assert "**3.00**" in table.markdown(bold=True)
    assert "**" not in table.markdown()
    assert r"\textbf{3.00}" in table.latex()


# --- what is missing

@pytest.mark.slow
def test_a_copy_that_was_cut_off_is_skipped_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "runs" / "a")
    Run(make_run(tmp_path / "runs" / "b", {"seed": 1})).metrics.write_text('{"fid": 5')
    Run(make_run(tmp_path / "runs" / "c", {"seed": 2})).scores.write_bytes(b"\x10")
    runs, unreadable = read_all(find([tmp_path / "runs"])[0])
    assert [run.run.name for run in runs] == ["a"]
    assert [folder.name for folder, _ in unreadable] == ["b", "c"]
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "cannot be read" in capsys.readouterr().err
    missing = cells((tmp_path / "out" / "missing.md").read_text())
    assert [line[0] for line in missing[1:] if not line[0].startswith("figure: ")] == ["b", "c"]


def test_what_was_not_measured_has_its_reason_from_the_options(tmp_path: Path) -> None:
    make_run(tmp_path / "unasked", {"evaluate": {"speed": False}}, images_per_second=None, speedup=None)
    make_run(tmp_path / "asked", {"seed": 1}, images_per_second=None)
    make_run(tmp_path / "dense", DENSE_OPTIONS, **DENSE_METRICS)
    Run(make_run(tmp_path / "blind", {"seed": 2}, fid_before_healing=None)).grid.unlink()
    assert dict(not_measured(runs_in(tmp_path))) == {
        "images/s of unasked": "it ran with evaluate.speed=false",
        "images/s of asked": "its metrics.json does not have it, though it was asked for",
        "scores before healing of blind": "its metrics.json does not have it, though it was asked for",
        "samples of blind": "samples/grid.png is not kept with the run"}


def test_what_many_runs_lack_is_one_line(tmp_path: Path) -> None:
    for seed in range(5):
        make_run(tmp_path / f"{seed}", {"seed": seed, "evaluate": {"speed": False}}, images_per_second=None)
    assert not_measured(runs_in(tmp_path)) == [("images/s of all 5 runs", "it ran with evaluate.speed=false")]


def test_a_figure_that_there_is_not_has_its_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", DENSE_OPTIONS, **DENSE_METRICS, protocol={"ema": None})
    Run(tmp_path / "runs" / "a").scores.unlink()
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    _, *lines = cells((tmp_path / "out" / "missing.md").read_text())
    reasons = {line[0].removeprefix("figure: "): line[1] for line in lines}
    assert reasons["Width of every layer"] == "nothing was pruned"
    assert reasons["Loss per timestep"] == "no criterion here made a scoring pass over the timesteps"
    assert reasons["Overlap of removed channels"].endswith("there is none")
    assert reasons["SSIM to dense against MACs"] == "no configuration but the dense model has both numbers"
    assert reasons["SSIM to dense against the ratio"] == "no two configurations differ in pruner.ratio alone"


def test_what_is_cut_from_a_figure_is_said(tmp_path: Path) -> None:
    shape = {"before": [8, 3, 3, 3], "after": [4, 3, 3, 3]}
    chart = width_chart([("a", {"conv_in": shape}), ("b", {"conv_out": shape}), ("c", {"conv_in": shape})])
    assert [series.name for series in chart.series] == ["dense", "a and c"]
    assert "1 configuration of other layers left out" in chart.caption
    for ratio in range(20):
        cut(tmp_path / f"{ratio:02}", {"x": [ratio % 10]}, pruner={"ratio": 0.1 + ratio / 100})
    matrix = overlap(configurations(runs_in(tmp_path), []))
    assert len(matrix.labels) == 16
    assert "The first 16 of 20 configurations" in matrix.caption


def test_the_first_seed_is_the_lowest_wherever_its_folder_lies(tmp_path: Path) -> None:
    for folder, seed in (("a", 10), ("b", 2), ("c", 3)):
        make_run(tmp_path / folder, {"seed": seed})
    ((_, runs),) = configurations(runs_in(tmp_path), [])
    assert [run.options["seed"] for run in runs] == [2, 3, 10]


def test_many_series_are_told_apart_without_colour() -> None:
    def looks(marks: bool) -> list[tuple]:
        series = [Series(str(i), [1.0, 2.0], [1.0, 2.0], colour=i, line=True, marks=marks) for i in range(28)]
        known: dict[str, list] = {}
        for layer in specification(Chart("n", "t", "c", "a", "x", "y", series))["layer"]:
            known |= {channel: layer["encoding"][channel]["scale"]["range"] for channel in ("color", "strokeDash", "shape")
                      if channel in layer["encoding"]}
        return [tuple(map(str, look)) for look in zip(*known.values(), strict=True)]

    lines, marked = looks(False), looks(True)
    assert len(set(lines)) == len(set(marked)) == 28
    assert len({dash for _, dash in lines[:4]}) == 4     # the first lines differ in more than colour
    assert len({(colour, shape) for colour, _, shape in marked}) == 28


@pytest.mark.slow
def test_how_each_number_was_made_is_a_table_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", DENSE_OPTIONS, **DENSE_METRICS)
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    header, line = cells((tmp_path / "out" / "runs.md").read_text())
    made = dict(zip(header, line, strict=True))
    assert (made["score [s]"], made["commit"], made["seed"]) == ("7.5", "0123abc", "0")
    assert made["command"].startswith("python -m diffprune")
    assert "torch" not in header


@pytest.mark.slow
def test_versions_that_all_share_stand_beside_the_protocol_and_others_in_a_column(tmp_path: Path) -> None:
    for seed, version in ((0, "2.15.0"), (1, "2.11.0")):
        make_run(tmp_path / "runs" / f"{seed}", {"seed": seed}, versions={"torch": version, "numpy": "2.4.6"})
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    header, *lines = cells((tmp_path / "out" / "runs.md").read_text())
    assert [line[header.index("torch")] for line in lines] == ["2.15.0", "2.11.0"]
    assert "numpy" not in header
    page = (tmp_path / "out" / "index.html").read_text()
    shared = page[page.index("Versions that all runs share"):page.index('id="how-each-number-was-made"')]
    assert "2.4.6" in shared
    assert "torch" not in shared


# --- files

@pytest.mark.slow
def test_files_of_the_users_are_kept_and_figures_of_an_earlier_report_are_not(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    figures = tmp_path / "out" / "figures"
    (figures / "mine.png").write_text("mine")
    assert (figures / "widths.png").exists()
    make_run(tmp_path / "dense", DENSE_OPTIONS, **DENSE_METRICS, protocol={"ema": None})
    main([str(tmp_path / "dense"), "--out", str(tmp_path / "out")])
    assert (figures / "mine.png").read_text() == "mine"
    assert not (figures / "widths.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table.md", "paired.csv", "figures/widths.png", "index.html"])
def test_a_folder_is_never_replaced_by_a_file_of_the_report(tmp_path: Path, name: str) -> None:
    for pruner in ("random", "taylor"):     # two, so that there is a table of differences
        make_run(tmp_path / "runs" / pruner, {"pruner": {"name": pruner}})
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(SystemExit, match=f"{name} is a folder") as ended:
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "\n" not in str(ended.value)
    assert (tmp_path / "out" / name).is_dir()


@pytest.mark.slow
def test_a_file_that_no_report_wrote_is_never_replaced(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    with pytest.raises(SystemExit, match=r"index\.html is not of an earlier report") as ended:
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "\n" not in str(ended.value)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.html"]
    assert (tmp_path / "out" / "index.html").read_text() == "mine"


# --- names

HOSTILE = ('"><b>owned</b><form action=//evil.example>', "a\\i\\1", "<!--<script>", "x\n\n| y |", "=cmd|' /C calc'!A0",
           "n" * 300, "`[l](javascript:x)", "../../up", "\x1b[31m\x00\ufffe")


@pytest.mark.slow
def test_a_figure_shows_any_name_as_it_is() -> None:
    series = [Series(name, [1.0 + i], [2.0], [name]) for i, name in enumerate((*HOSTILE, "\ud800"))]
    chart = Chart("n", HOSTILE[0], "c", HOSTILE[0], HOSTILE[1], "y", series, [(1.5, HOSTILE[1])])
    ticks = replace(chart, stops=(), ticks=[(1.0, HOSTILE[0]), (2.0, HOSTILE[1])])
    for shown in (chart, ticks, Matrix("m", "t", "c", "a", "u", HOSTILE, [[1.0] * len(HOSTILE)] * len(HOSTILE)),
                  Dots("d", "t", "c", "a", "x", [(name, [1.0], 1.5) for name in HOSTILE])):
        drawing = draw(shown)
        assert "<" not in drawing.interactive
        assert HOSTILE[0] in json.dumps(json.loads(drawing.interactive)).replace('\\"', '"')
        for svg in (drawing.svg, drawing.inline):
            assert not {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()} & {"b", "form"}


@pytest.mark.slow
def test_a_report_of_any_names_is_whole(tmp_path: Path) -> None:
    for i, name in enumerate(HOSTILE):
        make_run(tmp_path / "runs" / f"pruner-{i}", {"pruner": {"name": name}})
        own = {"dataset": {"name": name}, "model": {"name": name}, "pruner": {"name": "random"}}
        make_run(tmp_path / "runs" / f"model-{i}", own, dataset=name, model=name)
    for i in range(1, len(HOSTILE)):
        Run(tmp_path / "runs" / f"pruner-{i}").report.touch()
        Run(tmp_path / "runs" / f"model-{i}").report.touch()
    out = tmp_path / "out"
    main([str(tmp_path / "runs"), "--out", str(out)])
    for page in (out / "index.html", tmp_path / "runs" / "model-0" / "report.html"):
        text = page.read_text()
        assert not re.search(r"<(b|form)[ >]", text)
        assert "base-uri 'none'; form-action 'none'" in text
        assert text.rstrip().endswith("</html>")
    for file in out.rglob("*.csv"):
        assert all(not cell.startswith(("=", "@")) for line in csv.reader(file.open()) for cell in line)
    for file in out.rglob("*.md"):
        lines = file.read_text().splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines}) == 1
        assert not re.search(r"(?<!\\)<[a-z/!]|(?<!\\)`|\]\(", file.read_text())
    for file in out.rglob("*.tex"):
        assert "\n\n" not in file.read_text()
    assert all(file.resolve().is_relative_to(out.resolve()) for file in out.rglob("*"))


def test_no_two_names_have_one_file() -> None:
    names = [*HOSTILE, "a/b", "a:b", "a-b", "n" * 301]
    assert len({file_name(name) for name in names}) == len(names)
    assert all(len(file_name(name)) <= 120 for name in names)
    assert file_name("loss-ddpm_digits, steps=50") == "loss-ddpm_digits-steps-50"


def test_figures_whose_names_differ_in_a_blank_alone_have_files_of_their_own() -> None:
    figures = [Chart(name, "t", "c", "a", "x", "y", [Series("s", [1.0], [1.0])]) for name in ("a b", "a=b", "a-b")]
    files = together(figure_files(drawings(figures)))
    assert len(files) == 6
    assert list(files)[:2] == ["a-b.svg", "a-b.png"]
    assert [file_name(figure.name) + ".svg" for figure, _ in drawings(figures)] == list(files)[::2]
