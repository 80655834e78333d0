"""What finished run folders are made to say, on folders written by hand in the formats of the stages."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.numpy import save_file

from diffprune.report import run_table, terminal_table, write_report
from diffprune.report.__main__ import main, report
from diffprune.report.figures.losses import spans
from diffprune.report.finished import Finished, find
from diffprune.report.pages.samples import own_samples
from diffprune.report.tables import configurations as tables
from diffprune.report.tables.comparison import compare
from diffprune.report.tables.quantities import MAIN
from diffprune.runs.run import Run
from diffprune.runs.score_file import TimestepLosses
from diffprune.runtime.errors import UserError

RESOLUTION, COLUMNS = 8, 16
LAYERS = ["conv_in", "time_embedding.linear_1", "time_embedding.linear_2",
          *(f"{side}_blocks.{i}.resnets.{j}.{layer}" for side in ("down", "up") for i in range(2) for j in range(2)
            for layer in ("norm1", "conv1", "time_emb_proj", "conv2")),
          "mid_block.attentions.0.to_q", "conv_norm_out", "conv_out"]

OPTIONS: dict[str, Any] = {
    "seed": 0, "device": "auto", "precision": "no", "until": "evaluate",
    "paths": {"runs": "runs", "cache": "cache"}, "logger": {"_target_": "x"}, "launcher": {"name": "local"},
    "dataset": {"name": "digits", "resolution": RESOLUTION, "channels": 1, "path": None, "workers": 0},
    "model": {"name": "ddpm_digits", "checkpoint": "shipped:ddpm_digits"},
    "pruner": {"name": "diff_pruning", "ratio": 0.3, "reinitialise": False, "threshold": 0.05},
    "schedule": {"name": "finetune_digits", "steps": 400, "lr": 2e-4, "save_every": 1, "log_every": 1,
                 "preview_every": 0},
    "sampler": {"name": "ddim", "spacing": "uniform", "steps": 50, "batch": 64},
    "evaluate": {"images": 1024, "features": "digits-cnn", "before_healing": True, "speed": True, "batch": 64},
}
METRICS: dict[str, Any] = {
    "dataset": "digits", "model": "ddpm_digits", "params": 19_851_157, "macs": 3_392_800_000,
    "params_dense": 35_746_307, "macs_dense": 6_065_500_000, "features": "digits-cnn", "images": 1024,
    "fid": 5.29, "ssim": 0.9321, "fid_dense": 4.194, "fid_before_healing": 123.4, "ssim_before_healing": 0.25,
    "images_per_second": 151.2, "images_per_second_dense": 100.0, "speedup": 1.512,
    "protocol": {"sampler": "ddim", "spacing": "uniform", "steps": 50, "images": 1024, "ema": 0.9999},
    "versions": {"torch": "2.15.0"}, "seconds": {"score": 7.5, "prune": 1.5, "sample": 20.25},
    "command": "python -m diffprune pruner.ratio=.3 'dataset.path=a & b'", "commit": "0123abc",
}
DENSE = {"pruner": {"name": "none", "ratio": 0.0}, "schedule": {"name": "none", "steps": 0}}
DENSE_METRICS = {"params": 35_746_307, "macs": 6_065_500_000, "fid": 4.194, "ssim": 1.0, "images_per_second": 100.0,
                 "speedup": 1.0, "fid_before_healing": None, "ssim_before_healing": None}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**base, **{name: merged(base.get(name, {}), value) if isinstance(value, dict) else value
                       for name, value in changes.items()}}


def make_run(folder: Path, options: dict[str, Any] | None = None, finished: bool = True, **metrics: Any) -> Path:
    """A run folder as the stages leave it; `options` and `metrics` are changes."""
    run, options = Run(folder), merged(OPTIONS, options or {})
    if options["pruner"]["name"] != "diff_pruning":     # the other pruners have no such option
        del options["pruner"]["threshold"]
    run.config.parent.mkdir(parents=True)
    run.config.write_text(OmegaConf.to_yaml(OmegaConf.create(options)))
    about = {"criterion": "x", "seconds": 7.5, "threshold": 0.05, "kept": 249, "stops": {"0.05": 249}}
    tensors = {"loss": np.geomspace(1701, 0.05, 1000, dtype=np.float32),
               "terms/wg/conv_in": np.zeros((4, 1), np.float32)}
    save_file(tensors, run.scores, {"about": json.dumps(about)})
    run.prune_report.write_text(json.dumps(pruning()))
    if options["schedule"]["steps"]:
        run.finetune.mkdir()
        run.progress.write_text("".join(
            json.dumps({"step": step, "loss": 40 + 60 / step, "lr": 2e-4, "seconds": step / 10}) + "\n"
            for step in range(10, 401, 10)))
    draw_grid(run, 1 + 1 + bool(options["schedule"]["steps"] and options["evaluate"]["before_healing"]))
    if finished:
        run.metrics.write_text(json.dumps(merged(METRICS, {
            "name": run.name, "pruner": options["pruner"]["name"], "schedule": options["schedule"]["name"],
            "seed": options["seed"], **metrics})))
    return folder


def pruning() -> dict[str, Any]:
    def shape(layer: str, width: int) -> list[int]:
        return [width] if "norm" in layer else [width, width, 3, 3]

    layers = {layer: {"before": shape(layer, 128), "after": shape(layer, 96)} for layer in LAYERS}
    return {"ratio": 0.3, "layers": layers, "groups": [],
            "skipped": [{"layer": "conv_out", "reason": "the output head keeps the image's channels"}], "seconds": 1.5}


def draw_grid(run: Run, rows: int) -> None:
    """Row i is filled with the grey 50 (i + 1)."""
    picture = np.full((rows * (RESOLUTION + 1) + 1, COLUMNS * (RESOLUTION + 1) + 1), 255, np.uint8)
    for row in range(rows):
        for column in range(COLUMNS):
            top, left = row * (RESOLUTION + 1) + 1, column * (RESOLUTION + 1) + 1
            picture[top:top + RESOLUTION, left:left + RESOLUTION] = 50 * (row + 1)
    run.samples.mkdir()
    Image.fromarray(picture).save(run.grid)


def cells(text: str) -> list[list[str]]:
    """Of a Markdown table, header first, without the rule."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
    return [lines[0], *lines[2:]]


def column(text: str, title: str) -> dict[str, str]:
    header, *body = cells(text)
    return {line[0]: line[header.index(title)] for line in body}


def compared(tmp_path: Path, *runs: Path, **options: Any) -> list[list[str]]:
    """Cells of the comparison; the runs' own pages are left alone, which saves their drawing."""
    for folder in find(runs)[0]:
        Run(folder).report.touch()
    report(list(runs), tmp_path / "out", **options)
    return cells((tmp_path / "out" / "table.md").read_text())


# --- one run's table

def test_a_healed_run_has_three_columns_with_their_own_numbers(tmp_path: Path) -> None:
    table = run_table(make_run(tmp_path / "run")).markdown()
    fid = "Fréchet distance (digits-cnn features) ↓"
    assert cells(table)[0][1:] == ["dense", "pruned before healing", "pruned and healed"]
    assert column(table, "dense") == {
        "parameters [M]": "35.75 (100.0 %)", "MACs [G]": "6.07 (100.0 %)", fid: "4.19", "SSIM to dense ↑": "1.000",
        "images/s ↑": "100", "speed-up [×] ↑": "1.00"}
    assert column(table, "pruned before healing") == {
        "parameters [M]": "19.85 (55.5 %)", "MACs [G]": "3.39 (55.9 %)", fid: "123.40", "SSIM to dense ↑": "0.250",
        "images/s ↑": "151", "speed-up [×] ↑": "1.51"}
    assert column(table, "pruned and healed") == {
        "parameters [M]": "19.85 (55.5 %)", "MACs [G]": "3.39 (55.9 %)", fid: "5.29", "SSIM to dense ↑": "0.932",
        "images/s ↑": "151", "speed-up [×] ↑": "1.51"}


COST = {"cost": {"score": 10**12, "compensate": 2 * 10**11, "finetune": 7 * 10**11, "sample": 10**12},
        "seconds": {"score": 7.5, "prune": 1.5, "finetune": 40.0, "sample": 20.25}}


def test_healing_has_cost_the_model_before_it_only_its_compensation(tmp_path: Path) -> None:
    table = run_table(make_run(tmp_path / "run", **COST)).markdown()
    assert [column(table, title)["MACs of healing [T]"] for title in cells(table)[0][1:]] == ["–", "0.200", "0.900"]
    in_rounds = run_table(make_run(tmp_path / "rounds", {"schedule": {"rounds": 2}}, **COST)).markdown()
    assert column(in_rounds, "pruned before healing")["MACs of healing [T]"] == "–"


def test_the_steps_of_a_run_at_equal_cost_are_those_it_took(tmp_path: Path) -> None:
    own = Finished.of(make_run(tmp_path / "own", {"schedule": {"steps": 1000}}))
    equal = Finished.of(make_run(tmp_path / "equal", {"schedule": {"steps": 1000, "equal_cost": True}}))
    assert (own.steps, equal.steps) == (1000, 400)      # the last line of the progress log


@pytest.mark.parametrize(("options", "titles"), [
    (DENSE, ["dense"]),
    ({"schedule": {"steps": 0}}, ["dense", "pruned"]),
    ({"evaluate": {"before_healing": False}}, ["dense", "pruned and healed"]),
    ({"pruner": {"name": "scratch", "reinitialise": True}, "evaluate": {"before_healing": False}},
     ["dense", "pruned, trained from scratch"]),
    ({"pruner": {"name": "none", "ratio": 0.0}, "model": {"checkpoint": None}, "evaluate": {"before_healing": False}},
     ["trained"]),
])
def test_a_table_has_only_the_models_that_the_run_made(tmp_path: Path, options: dict, titles: list[str]) -> None:
    before = {"fid_before_healing": None, "ssim_before_healing": None}
    folder = make_run(tmp_path / "run", options, **before)
    assert cells(run_table(folder).markdown())[0][1:] == titles


def test_what_was_not_measured_is_a_dash_and_never_zero(tmp_path: Path) -> None:
    unknown = ("ssim", "fid_dense", "ssim_before_healing", "images_per_second", "images_per_second_dense", "speedup")
    folder = make_run(tmp_path / "run", **dict.fromkeys(unknown))
    table = run_table(folder)
    healed, dense = column(table.markdown(), "pruned and healed"), column(table.markdown(), "dense")
    assert [healed[name] for name in ("SSIM to dense ↑", "images/s ↑", "speed-up [×] ↑")] == ["–"] * 3
    assert dense["Fréchet distance (digits-cnn features) ↓"] == "–"
    record = list(csv.DictReader(io.StringIO(table.csv())))[-1]
    assert (record["ssim"], record["ssim_n"], record["fid_digits-cnn"]) == ("", "0", "5.29")


def test_the_terminal_shows_the_same_cells(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    shown = terminal_table(folder)
    assert all(cell in shown for line in run_table(folder).body for cell in line)


@pytest.mark.slow
def test_latex_escapes_what_it_would_read_as_commands(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a_b")
    make_run(tmp_path / "c_d", {"pruner": {"threshold": 0.02}})
    report([folder, tmp_path / "c_d"], tmp_path / "out")
    text = (tmp_path / "out" / "table.tex").read_text()
    assert r"diff\_pruning" in text
    assert r"55.5 \%" in text
    assert not re.search(r"(?<!\\)[_%#]", text)
    assert not set(text) & set("–±×↑↓")


FURTHER = {"kid": 0.0123, "kid_dense": 0.002, "kid_before_healing": 0.25, "precision": 0.8125, "precision_dense": 0.9,
           "recall": 0.5, "inception_score": 8.25, "inception_score_dense": None, "fid_to_dense": 6.5, "psnr": 21.5,
           "psnr_before_healing": 10.25, "rmse": 0.0789}


def test_what_else_was_measured_has_its_line_under_the_name_of_its_features(tmp_path: Path) -> None:
    table = run_table(make_run(tmp_path / "run", **FURTHER)).markdown()
    on = "(digits-cnn features)"
    lines = {line[0]: line[1:] for line in cells(table)[1:]}
    plain = column(run_table(make_run(tmp_path / "plain")).markdown(), "dense")
    assert {name: line for name, line in lines.items() if name not in plain} == {
        f"KID {on} ↓": ["0.00200", "0.250", "0.0123"], f"precision {on} ↑": ["0.900", "–", "0.812"],
        f"recall {on} ↑": ["–", "–", "0.500"], f"Inception score {on} ↑": ["–", "–", "8.25"],
        f"Fréchet distance to dense {on} ↓": ["–", "–", "6.50"], "PSNR to dense [dB] ↑": ["–", "10.25", "21.50"],
        "RMSE to dense ↓": ["–", "–", "0.0789"]}


def test_main_tables_stay_as_they_are_whatever_else_was_measured(tmp_path: Path) -> None:
    with_more, plain = make_run(tmp_path / "more", **FURTHER), make_run(tmp_path / "plain")
    assert run_table(with_more, MAIN).markdown() == run_table(plain).markdown()
    assert compare([Finished.of(with_more)], level=MAIN).header == compare([Finished.of(plain)]).header


def test_a_dense_run_has_its_own_measures_but_no_likeness_to_itself(tmp_path: Path) -> None:
    measured = {"kid": 0.002, "precision": 0.9, "fid_to_dense": 0.0, "rmse": 0.0}
    table = run_table(make_run(tmp_path / "run", DENSE, **DENSE_METRICS, **measured))
    dense = column(table.markdown(), "dense")
    assert dense["KID (digits-cnn features) ↓"] == "0.00200"
    assert "RMSE to dense ↓" not in dense


# --- one run's page

class References(HTMLParser):
    """Every address and id in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses, self.ids, self.unnamed = [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [known["id"]] if "id" in known else []
        if (tag == "img" and not known.get("alt")) or (tag == "svg" and not known.get("aria-label")):
            self.unnamed.append(tag)


def test_the_page_needs_no_other_file_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run")).read_text()
    page = References(text)
    assert {address.partition(":")[0] for address in page.addresses if not address.startswith("#")} == {"data"}
    assert "<script src" not in text
    assert len(text) < 1_500_000
    without_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "@import" not in without_scripts
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", without_scripts))


@pytest.mark.slow
def test_every_picture_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    page = References(write_report(make_run(tmp_path / "run")).read_text())
    assert not page.unnamed


def test_the_page_says_what_was_achieved_and_how(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run")).read_text()
    for said in ("55.5&nbsp;%", "−44&nbsp;%", "249 of 1000 timesteps", "T = 0.05 stops at 249", "a &amp; b", "0123abc",
                 "2.15.0", "the output head keeps the image&#39;s channels", "128 × 128 × 3 × 3", "96 × 96 × 3 × 3",
                 "spacing"):
        assert said in text, said
    seconds = text[text.index("Seconds per stage"):]
    assert re.findall(r"<td>([\d.]+)</td>", seconds)[:3] == ["7.5", "1.5", "20.2"]


def test_the_page_never_states_the_nominal_ratio_as_a_compression(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run")).read_text()
    assert "30 %" not in text
    assert "30.0 %" not in text
    assert "70.0 %" not in text


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


@pytest.mark.slow
def test_a_page_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")
    write_report(folder)
    before = sorted(folder.iterdir())
    old = Run(folder).report.read_bytes()

    def full_disk(self: Path, *_: Any, **__: Any) -> None:
        self.write_text("<!doc")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(folder)
    assert Run(folder).report.read_bytes() == old
    assert sorted(folder.iterdir()) == before


def test_samples_come_in_the_order_of_the_table(tmp_path: Path) -> None:
    shown = own_samples(Finished.of(make_run(tmp_path / "run")))
    assert [row.model for row in shown.rows] == ["dense", "pruned and healed", "pruned before healing"]
    assert [row.images[0].getpixel((0, 0)) for row in shown.rows] == [50, 100, 150]
    assert {image.size for row in shown.rows for image in row.images} == {(RESOLUTION, RESOLUTION)}


def test_a_dense_run_shows_its_images_once(tmp_path: Path) -> None:
    shown = own_samples(Finished.of(make_run(tmp_path / "run", DENSE, **DENSE_METRICS)))
    assert [row.model for row in shown.rows] == ["dense"]


def test_a_run_without_scores_training_or_grid_still_has_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"pruner": {"name": "random"}, "schedule": {"steps": 0}})
    run = Run(folder)
    run.grid.unlink()
    run.scores.unlink()
    text = write_report(folder).read_text()
    assert text.count('class="plot"') == 1      # the widths
    assert "<h2>Samples" not in text


def test_a_loss_curve_is_there_only_where_a_walk_was_made(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"pruner": {"name": "magnitude"}})
    save_file({"terms/w2/conv_in": np.zeros((4, 1), np.float32)}, Run(folder).scores,
              {"about": json.dumps({"criterion": "magnitude", "seconds": 0.5})})
    assert Finished.of(folder).scoring is None


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run is no finished run, it has no metrics\.json"):
        write_report(make_run(tmp_path / "run", finished=False))


# --- many runs

def test_seeds_become_one_row_with_mean_and_standard_deviation(tmp_path: Path) -> None:
    for seed, fid in enumerate((5.0, 5.2, 5.7)):
        make_run(tmp_path / "runs" / f"a-s{seed}", {"seed": seed}, fid=fid)
    header, dense, row = compared(tmp_path, tmp_path / "runs")
    assert header[3] == "Fréchet distance (digits-cnn features) ↓"
    assert row[:4] == ["diff_pruning", "19.85 (55.5 %)", "3.39 (55.9 %)", "5.30 ± 0.36 (3)"]     # n - 1; n gives 0.29
    assert dense[:4] == ["dense", "35.75 (100.0 %)", "6.07 (100.0 %)", "4.19"]
    _, record = csv.DictReader((tmp_path / "out" / "table.csv").open())
    assert float(record["fid_digits-cnn"]) == pytest.approx(5.3)
    assert float(record["fid_digits-cnn_std"]) == pytest.approx(0.360555, abs=1e-6)
    assert (record["fid_digits-cnn_n"], record["params"], record["ssim"]) == ("3", "19851157.0", "0.9321")


def test_a_seed_that_lacks_a_number_does_not_count_for_it(tmp_path: Path) -> None:
    for seed, ssim in enumerate((0.9, None, 0.8)):
        make_run(tmp_path / "runs" / f"a-s{seed}", {"seed": seed}, ssim=ssim)
    header, _, row = compared(tmp_path, tmp_path / "runs")
    assert row[header.index("SSIM to dense ↑")] == "0.850 ± 0.071 (2)"


@pytest.mark.slow
def test_configurations_are_named_by_what_tells_them_apart_and_sorted_by_it(tmp_path: Path) -> None:
    for name, threshold in (("a", 0.05), ("b", 0.005), ("c", 0.2)):
        make_run(tmp_path / "runs" / name, {"pruner": {"threshold": threshold}})
    make_run(tmp_path / "runs" / "d", {"pruner": {"name": "random"}})
    make_run(tmp_path / "runs" / "0", DENSE, **DENSE_METRICS, protocol={"ema": None})
    titles = [line[0] for line in compared(tmp_path, tmp_path / "runs")[1:]]
    assert titles == ["dense", "diff_pruning threshold=0.005", "diff_pruning threshold=0.05", "diff_pruning threshold=0.2",
                      "random"]


WINDOW = {"_target_": "diffprune.pruning.timesteps.Window", "first": 0, "last": 499}
CRITERION = "diffprune.pruning.criteria."


@pytest.mark.parametrize(("changes", "titles"), [
    # A run is not called by an option that it lacks: the policy replaces the threshold.
    ([{}, {"timesteps": WINDOW}], [[], ["timesteps=window 0 499"]]),
    ([{"ratio": 0.3}, {"ratio": 0.5}], [["ratio=0.3"], ["ratio=0.5"]]),
    ([{}, {"compensate": "ridge"}], [[], ["compensate=ridge"]]),
    ([{"compensate": "none"}, {"compensate": "ridge"}], [[], ["compensate=ridge"]]),
    # Two options that a value alone does not tell apart.
    ([{"floor": None}, {}, {"floor": False}], [["pruner.floor=None"], [], ["pruner.floor=False"]]),
    # The criterion is said where a pruner's name stands for two.
    ([{"name": name, "criterion": {"_target_": CRITERION + of}} for name, of in
      (("random", "Random"), ("random", "Magnitude"), ("taylor", "Taylor"))],
     [["criterion=random"], ["criterion=magnitude"], []])])
def test_a_row_is_called_by_what_it_has(changes: list[dict[str, Any]], titles: list[list[str]]) -> None:
    runs = [merged(OPTIONS, {"pruner": change}) for change in changes]
    for run in runs:
        if run["pruner"].get("timesteps"):
            del run["pruner"]["threshold"]
    assert tables.titles([tables.flat(run) for run in runs]) == titles


def test_options_of_one_name_are_told_apart_by_their_groups() -> None:
    runs = [merged(OPTIONS, {"schedule": {"name": name, "steps": steps}, "sampler": {"steps": drawn}})
            for name, steps, drawn in (("none", 0, 50), ("finetune_digits", 400, 50), ("finetune_digits", 400, 20))]
    assert tables.titles([tables.flat(run) for run in runs]) == [
        ["not fine-tuned", "steps=50"], ["finetune_digits", "steps=50"], ["finetune_digits", "steps=20"]]


def test_where_a_run_lies_and_how_fast_it_was_made_is_no_configuration(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", {"seed": 0, "sampler": {"batch": 8}, "paths": {"cache": "x"}})
    make_run(tmp_path / "runs" / "b", {"seed": 1, "device": "cuda"})
    assert len(compared(tmp_path, tmp_path / "runs")) == 3      # header, dense, both


@pytest.mark.parametrize(("change", "named"), [
    ({"protocol": {"steps": 100}}, "steps is 50 or 100"),
    ({"features": "inception"}, "features is digits-cnn or inception")])
def test_different_protocols_are_refused_with_what_differs(tmp_path: Path, change: dict, named: str) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, **change)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert named in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_mixed_protocols_get_columns_and_rows_of_their_own_when_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"sampler": {"steps": 100}}, protocol={"steps": 100}, fid_dense=4.0)
    header, *rows = compared(tmp_path, tmp_path / "runs", mixed_protocols=True)
    assert [dict(zip(header, row, strict=True))["steps"] for row in rows] == ["50", "100", "50", "100"]
    assert [row[0].split()[0] for row in rows] == ["dense", "dense", "diff_pruning", "diff_pruning"]
    assert "Not all rows compare" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.slow
def test_distances_on_different_features_never_share_a_column(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, features="inception", fid=7.0, fid_dense=6.0)
    header, *rows = compared(tmp_path, tmp_path / "runs", mixed_protocols=True)
    shown = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["Fréchet distance (inception features) ↓"] for row in shown] == ["–", "6.00", "–", "7.00"]
    assert [row["Fréchet distance (digits-cnn features) ↓"] for row in shown] == ["4.19", "–", "5.29", "–"]


def test_further_measures_are_columns_and_those_before_healing_are_in_the_csv(tmp_path: Path) -> None:
    for seed, kid in enumerate((0.01, 0.02)):
        make_run(tmp_path / "runs" / f"a-{seed}", {"seed": seed}, **FURTHER | {"kid": kid})
    header, _, row = compared(tmp_path, tmp_path / "runs")
    shown = dict(zip(header, row, strict=True))
    assert shown["KID (digits-cnn features) ↓"] == "0.0150 ± 0.0071 (2)"
    assert not [title for title in header if title.startswith(("KID before", "PSNR before"))]
    _, record = csv.DictReader((tmp_path / "out" / "table.csv").open())
    assert float(record["unhealed_kid_digits-cnn"]) == 0.25
    assert float(record["unhealed_psnr"]) == 10.25


@pytest.mark.slow
def test_measures_on_different_features_never_share_a_column(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", **FURTHER)
    make_run(tmp_path / "runs" / "b", {"seed": 1}, features="inception", **FURTHER)
    header, *rows = compared(tmp_path, tmp_path / "runs", mixed_protocols=True)
    for name, arrow in (("KID", "↓"), ("precision", "↑"), ("recall", "↑"), ("Inception score", "↑"),
                        ("Fréchet distance to dense", "↓")):
        columns = [header.index(f"{name} ({features} features) {arrow}") for features in ("digits-cnn", "inception")]
        assert [sum(row[i] != "–" for i in columns) for row in rows[2:]] == [1, 1]


def test_a_different_way_to_measure_is_another_protocol(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", kid=0.01, protocol={"kid_subsets": 100})
    make_run(tmp_path / "runs" / "b", {"seed": 1}, kid=0.01, protocol={"kid_subsets": 10})
    with pytest.raises(UserError, match="kid_subsets is 100 or 10"):
        report([tmp_path / "runs"], tmp_path / "out")


@pytest.mark.parametrize("first", [{}, {"guidance": None}, {"guidance": 1.0}])
def test_what_a_run_does_not_state_is_a_value_too(tmp_path: Path, first: dict) -> None:
    make_run(tmp_path / "runs" / "a", protocol=first)
    make_run(tmp_path / "runs" / "b", {"seed": 1}, protocol={"guidance": 3.0})
    with pytest.raises(UserError, match=r"guidance is 1\.0 or 3\.0"):
        report([tmp_path / "runs"], tmp_path / "out")


def test_a_part_that_one_run_lacks_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, protocol={"subset_rule": "x"})
    with pytest.raises(UserError, match="subset_rule is x or not stated"):
        report([tmp_path / "runs"], tmp_path / "out")


def test_no_guidance_is_the_scale_1(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, protocol={"guidance": 1.0})
    assert len(compared(tmp_path, tmp_path / "runs")) == 3      # header, dense, both


@pytest.mark.slow
def test_runs_older_than_a_measure_line_up_with_those_that_have_it(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, kid=0.01, protocol={"kid_subset": 100, "features_sha256": "0"})
    assert len(compared(tmp_path, tmp_path / "runs")) == 3


@pytest.mark.parametrize(("other", "alike"), [("0.99 with warm-up", True), ("0.9 with warm-up", False), (0.9, False),
                                              ("power 6.94", False)])
def test_an_average_that_warms_up_is_that_of_its_decay(tmp_path: Path, other: object, alike: bool) -> None:
    make_run(tmp_path / "runs" / "a", protocol={"ema": 0.99})
    make_run(tmp_path / "runs" / "b", {"seed": 1}, protocol={"ema": other})
    if alike:
        assert len(compared(tmp_path, tmp_path / "runs")) == 3
    else:
        with pytest.raises(UserError, match=r"ema is 0\.99 or"):
            compared(tmp_path, tmp_path / "runs")


@pytest.mark.slow
def test_losses_on_other_held_out_images_do_not_line_up_and_runs_without_them_do(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, held_out_loss=5.0, protocol={"held_out": 297})
    assert len(compared(tmp_path, tmp_path / "runs")) == 3
    make_run(tmp_path / "runs" / "c", {"seed": 2}, held_out_loss=5.0, protocol={"held_out": 100})
    with pytest.raises(UserError, match="held_out is 297 or 100"):
        compared(tmp_path, tmp_path / "runs")


def test_what_does_not_apply_to_a_run_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "dense", DENSE, **DENSE_METRICS, protocol={"ema": None})
    make_run(tmp_path / "runs" / "pruned")
    assert [row[0] for row in compared(tmp_path, tmp_path / "runs")[1:]] == ["dense", "diff_pruning"]


@pytest.mark.slow
def test_half_finished_runs_are_skipped_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, finished=False)
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert re.search(r"skipped .*b: not finished", captured.err)
    assert str(tmp_path / "out" / "index.html") in captured.out


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_nothing_to_compare_is_one_sentence_and_a_failure(
        tmp_path: Path, capsys: pytest.CaptureFixture, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / folder), "--out", str(tmp_path / "out")])
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)
    assert not capsys.readouterr().out


def test_a_run_named_twice_counts_once_and_a_copy_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "a")
    assert find([tmp_path / "runs", folder])[0] == [folder]
    make_run(tmp_path / "elsewhere" / "copy of a")
    with pytest.raises(UserError, match="hold the same run"):
        report([tmp_path / "runs", tmp_path / "elsewhere"], tmp_path / "out")


@pytest.mark.slow
def test_the_comparison_links_to_each_runs_own_page_and_loads_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a b#1")
    report([tmp_path / "runs"], tmp_path / "out")
    page = References((tmp_path / "out" / "index.html").read_text())
    links = [address for address in page.addresses if not address.startswith(("data:", "#"))]
    assert {link for link in links if "report.html" in link} == {"../runs/a%20b%231/report.html#from=../../out/index.html"}
    assert {link for link in links if "report.html" not in link} == {
        f"{table}.{kind}" for table in ("table",) for kind in ("md", "csv", "tex")} | {
        f"figures/{path.name}" for path in (tmp_path / "out" / "figures").glob("*") if "samples" not in path.name}
    assert all((tmp_path / "out" / link).is_file() for link in links if "report.html" not in link)
    assert (tmp_path / "runs" / "a b#1" / "report.html").exists()
    assert not page.unnamed


@pytest.mark.slow
def test_different_library_versions_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", {"seed": 1}, versions={"torch": "2.11.0"})
    report([tmp_path / "runs"], tmp_path / "out")
    assert "torch is 2.15.0 or 2.11.0" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.slow
def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "a")
    script = ("import sys; from pathlib import Path; from diffprune.report import write_report; "
              "from diffprune.report.__main__ import main; write_report(Path(sys.argv[1])); "
              "main([sys.argv[1], '--out', sys.argv[2]]); print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script, folder, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_the_loss_figure_shades_what_counted() -> None:
    loss = np.ones(6)
    assert spans(TimestepLosses(loss, 0.05, 4)) == [(0, 4)]
    assert spans(TimestepLosses(loss, 0.0, 3, alpha=np.array([0, 1, 0.5, 0, 0, 2.0]))) == [(1, 3), (5, 6)]
    assert spans(TimestepLosses(loss, 0.0, 6, alpha=np.ones(6))) == [(0, 6)]


@pytest.mark.slow
def test_five_hundred_runs_take_seconds_and_little_memory(tmp_path: Path) -> None:
    for i in range(500):
        make_run(tmp_path / "runs" / f"r{i}", {"seed": i % 5, "pruner": {"ratio": 0.1 + 0.005 * (i // 5)}}, fid=5 + i / 50)
    script = ("import sys, time; from diffprune.report.__main__ import main; from diffprune.runs.status import peak_memory; "
              "main([sys.argv[1], '--out', sys.argv[2]]); print(time.process_time(), peak_memory()[0] / 2**20)")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "runs", tmp_path / "out"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.splitlines()[-1].split())   # of the processor: others may use the machine
    assert seconds < 20
    assert megabytes < 1024
    assert len(cells((tmp_path / "out" / "table.md").read_text())) == 1 + 1 + 100
