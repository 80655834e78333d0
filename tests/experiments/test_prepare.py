"""What a table's cells need from elsewhere is fetched beforehand, each thing once."""

import logging
from pathlib import Path

import pytest

from diffprune.stages import options
from experiments.commands import main
from experiments.planning.cells import plan
from experiments.running.prepare import prepare


@pytest.mark.slow
def test_everything_is_read_once_and_no_run_is_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert main(["prepare", "table1_digits", "ratio_sweep_digits", f"paths.runs={tmp_path}/runs"]) == 0
    assert [text for text in caplog.messages if text.endswith("is here")] == [
        "data set digits is here", "model ddpm_digits is here", "feature network digits-cnn is here"]
    assert not list(tmp_path.rglob("*"))


def test_what_no_cell_needs_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(options, "load_images", lambda cfg: read.append(cfg.dataset.name))
    monkeypatch.setattr(options, "load_dense", lambda cfg: read.append(cfg.model.name))
    monkeypatch.setattr(options, "load_extractor", lambda name, weights: read.append(name))
    prepare(plan(["table1_digits"], ["until=prune", "model.checkpoint=null"]).cells)
    assert read == ["digits"]


def test_what_is_still_to_be_chosen_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"error: nothing chosen for dataset\.path"):
        main(["prepare", "table2_lsun_church"])
