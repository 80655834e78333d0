"""The W&B workspace of an experiment, as it would be sent."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from diffprune.tracking.wandb_tracker import run_id
from experiments.commands import main
from experiments.planning.cells import plan
from experiments.reporting import dashboard
from experiments.reporting.dashboard import Dashboard, finished_in
from tests.report.test_report import DENSE, DENSE_METRICS, make_run


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "logged_in", lambda: False)


def parts(specification: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The selection of runs, and all panels."""
    section = specification["spec"]["section"]
    (runs,) = section["runSets"]
    return runs, [panel for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]


def of(name: str, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return parts(Dashboard.of(name, plan([name], overrides).cells, "diffprune").specification())


def grouping(runs: dict[str, Any]) -> list[str]:
    return [entry["name"].removesuffix(".value") for entry in runs["grouping"]]


@pytest.mark.slow
def test_runs_are_found_by_their_ids_and_sorted_by_distance() -> None:
    cells = plan(["table1_digits"]).cells
    runs, _ = of("table1_digits")
    (selected,) = runs["filters"]["filters"]
    assert (selected["key"], selected["op"]) == ({"section": "run", "name": "name"}, "IN")
    assert selected["value"] == [run_id(cell.run.name) for cell in cells]
    (order,) = runs["sort"]["keys"]
    assert (order["key"], order["ascending"]) == ({"section": "summary", "name": "quality/fid"}, True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keys", "groups"), [
    ("table1_digits", ["prune/criterion"], 8), ("ratio_sweep_digits", ["prune/criterion", "prune/ratio"], 8),
    ("timestep_ablation_digits", ["pruner/timesteps/last"], 20),
    ("iso_compute_digits", ["prune/criterion", "sampler/steps"], 8)])
def test_seeds_of_one_cell_are_together_and_nothing_else(name: str, keys: list[str], groups: int) -> None:
    """As the client groups: by the values that the tracker sends under these keys."""
    from diffprune.config.compose import composed
    from diffprune.stages.options import description
    from diffprune.tracking.wandb_tracker import flat, short_names
    assert grouping(of(name)[0]) == keys
    sent = []
    for cell in {cell.title: cell for cell in plan([name]).cells}.values():
        cfg = composed(cell.overrides)
        about = description(cfg)
        values = flat(about.options) | short_names(about.science)
        sent.append(tuple(values.get(key) for key in keys))
    assert len(set(sent)) == len(sent) == groups


@pytest.mark.slow
def test_a_table_under_a_target_has_a_dashboard_without_the_ratio() -> None:
    runs, _ = of("table1_digits", "pruner.target.macs=.5")
    assert grouping(runs) == ["prune/criterion"]
    assert "baselineRunId" in runs      # the dense model stays dense


@pytest.mark.slow
def test_panels_show_what_an_ablation_is_read_by() -> None:
    _, panels = of("iso_compute_digits")
    scatter = [panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot"]
    assert {(plot["xAxis"], plot["yAxis"], plot["zAxis"]) for plot in scatter} == {
        ("summary:achieved/macs", f"summary:quality/{name}", "config:prune/threshold.value") for name in ("fid", "ssim")}
    (parallel,) = (panel["config"] for panel in panels if panel["viewType"] == "Parallel Coordinates Plot")
    assert [entry["accessor"] for entry in parallel["columns"]] == [
        "config:prune/ratio.value", "config:prune/threshold.value", "config:prune/criterion.value",
        "config:sampler/steps.value", "summary:achieved/macs", "summary:quality/fid"]
    media = [key for panel in panels if panel["viewType"] == "Media Browser" for key in panel["config"]["mediaKeys"]]
    assert media == ["images/samples", "images/preview", "images/widths"]


def test_folders_select_their_runs_and_the_dense_one_is_the_baseline(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "pruned")
    make_run(tmp_path / "runs" / "plain", DENSE, **DENSE_METRICS)
    runs, _ = parts(Dashboard.of("runs", finished_in([tmp_path / "runs"]), "diffprune", "team").specification())
    (selected,) = runs["filters"]["filters"]
    assert sorted(selected["value"]) == ["plain", "pruned"]
    assert "plain" in base64.b64decode(runs["baselineRunId"]).decode()


@pytest.mark.slow
@pytest.mark.usefixtures("logged_out")
def test_without_a_login_a_file_is_written_and_how_to_send_it_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["dashboard", "table1_digits", "--entity", "team", "--out", str(tmp_path / "spec.json")])
    said = capsys.readouterr().out
    assert str(tmp_path / "spec.json") in said
    assert "wandb login" in said
    content = json.loads((tmp_path / "spec.json").read_text())
    assert (content["name"], content["entity"], content["project"]) == ("table1_digits", "team", "diffprune")
    assert len(parts(content)[1]) == 7


def test_a_refusal_by_the_service_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def save(self) -> None:
            raise ConnectionError("no such project")

    kept = Dashboard.workspace
    monkeypatch.setattr(dashboard, "logged_in", lambda: True)
    answers = iter([lambda self: Refusing(), kept])
    monkeypatch.setattr(Dashboard, "workspace", lambda self: next(answers)(self))
    said = dashboard.send(Dashboard("table1", "diffprune", None, ["a"], []), tmp_path / "spec.json")
    assert "no such project" in said
    assert (tmp_path / "spec.json").exists()


@pytest.mark.usefixtures("logged_out")
def test_a_folder_is_not_replaced_by_the_specification(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(SystemExit, match="thesis is a folder"):
        main(["dashboard", "table1_digits", "--out", str(tmp_path / "thesis")])
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_folders_without_a_finished_run_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", str(tmp_path)])
    assert str(ended.value).startswith("error: no finished run in")
    assert "\n" not in str(ended.value)


@pytest.mark.usefixtures("logged_out")
def test_folders_stand_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "pruned")
    for others in (["table1_digits"], ["seed=1"], ["--seeds", "0"]):
        with pytest.raises(SystemExit, match="stands without"):
            main(["dashboard", str(tmp_path / "runs"), *others])
    main(["dashboard", str(tmp_path / "runs"), "--out", str(tmp_path / "spec.json")])
    assert json.loads((tmp_path / "spec.json").read_text())["name"] == "runs"
