"""The W&B workspace of an experiment, as it would be sent."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import dashboard
from experiments.dashboard import Dashboard, main
from tests.test_report import DENSE, DENSE_METRICS, make_run


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "logged_in", lambda: False)


def parts(specification: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The selection of runs, and all panels."""
    section = specification["spec"]["section"]
    (runs,) = section["runSets"]
    return runs, [panel for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]


def test_runs_are_those_of_the_group_sorted_by_distance_with_seeds_together() -> None:
    runs, _ = parts(Dashboard("table1").specification())
    (selected,) = runs["filters"]["filters"]
    assert (selected["key"]["name"], selected["op"], selected["value"]) == ("group", "=", "table1")
    assert [entry["name"] for entry in runs["grouping"]] == [
        f"prune/{name}.value" for name in ("criterion", "ratio", "threshold")]
    (order,) = runs["sort"]["keys"]
    assert (order["key"], order["ascending"]) == ({"section": "summary", "name": "quality/fid"}, True)


def test_panels_show_what_an_ablation_is_read_by() -> None:
    _, panels = parts(Dashboard("table1").specification())
    scatter = [panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot"]
    assert {(plot["xAxis"], plot["yAxis"], plot["zAxis"]) for plot in scatter} == {
        ("summary:achieved/macs", f"summary:quality/{name}", "config:prune/threshold.value") for name in ("fid", "ssim")}
    (parallel,) = (panel["config"] for panel in panels if panel["viewType"] == "Parallel Coordinates Plot")
    assert [entry["accessor"] for entry in parallel["columns"]] == [
        "config:prune/ratio.value", "config:prune/threshold.value", "summary:achieved/macs", "summary:quality/fid"]
    media = [key for panel in panels if panel["viewType"] == "Media Browser" for key in panel["config"]["mediaKeys"]]
    assert media == ["images/samples", "images/preview", "images/widths"]


def test_folders_select_their_runs_and_the_dense_one_is_the_baseline(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "pruned")
    make_run(tmp_path / "runs" / "plain", DENSE, **DENSE_METRICS)
    runs, _ = parts(Dashboard.of([tmp_path / "runs"], entity="team").specification())
    (selected,) = runs["filters"]["filters"]
    assert sorted(selected["value"]) == ["plain", "pruned"]
    assert "plain" in base64.b64decode(runs["baselineRunId"]).decode()


@pytest.mark.usefixtures("logged_out")
def test_without_a_login_a_file_is_written_and_how_to_send_it_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["table1", "--entity", "team", "--out", str(tmp_path / "spec.json")])
    said = capsys.readouterr().out
    assert str(tmp_path / "spec.json") in said
    assert "wandb login" in said
    content = json.loads((tmp_path / "spec.json").read_text())
    assert (content["name"], content["entity"], content["project"]) == ("table1", "team", "diffprune")
    assert len(parts(content)[1]) == 7


def test_a_refusal_by_the_service_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def save(self) -> None:
            raise ConnectionError("no such project")

    kept = Dashboard.workspace
    monkeypatch.setattr(dashboard, "logged_in", lambda: True)
    answers = iter([lambda self: Refusing(), kept])
    monkeypatch.setattr(Dashboard, "workspace", lambda self: next(answers)(self))
    said = dashboard.send(Dashboard("table1"), tmp_path / "spec.json")
    assert "no such project" in said
    assert (tmp_path / "spec.json").exists()


def test_folders_without_a_finished_run_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)
