"""Trackers: the real client, offline, read back from its own files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from wandb.proto import wandb_internal_pb2

from diffprune.run import Run
from diffprune.track import Tracker, WandbTracker, flat


def test_the_configuration_is_flat_enough_to_group_by(config) -> None:
    values = flat(config("pruner.ratio=.4"))
    assert values["pruner/ratio"] == 0.4
    assert values["dataset/name"] == "digits"
    assert not any(isinstance(value, dict) for value in values.values())


def test_the_plain_tracker_takes_everything_and_keeps_nothing(config, tmp_path: Path) -> None:
    tracker, cfg = Tracker(), config()
    tracker.start(cfg, Run.of(cfg))
    tracker.log({"loss": 1.0}, 1)
    tracker.image("preview", tmp_path / "none.png", 1)
    tracker.summary({"fid": 1.0})
    tracker.finish()
    assert not list(tmp_path.rglob("*"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")


def records(file: Path) -> list:
    """The records of an offline run's transaction log."""
    return [wandb_internal_pb2.Record.FromString(data) for data in log_entries(file.read_bytes())]


def log_entries(content: bytes, header: int = 7, block: int = 32768) -> Iterator[bytes]:
    """The entries of a file in LevelDB's log format: chunks of (checksum 4, length 2, kind 1, data) within blocks."""
    assert content.startswith(b":W&B")
    place, parts = header, []
    while place + header <= len(content):
        if block - place % block < header:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts.append(content[place + header:place + header + length])
        place += header + length
        if kind in (1, 4):      # whole, or the last part
            yield b"".join(parts)
            parts = []


@pytest.mark.slow
def test_without_a_login_a_run_is_kept_offline_and_complete(config, tmp_path: Path, offline: None) -> None:
    cfg = config()
    run = Run.of(cfg)
    tracker = WandbTracker("diffprune", None, None)
    tracker.start(cfg, run)
    tracker.log({"loss": 2.5, "lr": 1e-4}, 10)
    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    tracker.image("preview", tmp_path / "p.png", 10)
    tracker.summary({"fid": 12.5})
    tracker.finish()
    (file,) = (tmp_path / "runs" / "wandb").glob(f"offline-run-*/run-{run.name[-64:]}.wandb")
    logged = records(file)
    started = next(r.run for r in logged if r.WhichOneof("record_type") == "run")
    assert started.display_name == run.name
    assert started.run_id == run.name[-64:]
    assert {item.key: json.loads(item.value_json) for item in started.config.update}["pruner/ratio"] == 0.3
    history = {("/".join(i.nested_key) or i.key): i.value_json for r in logged
               if r.WhichOneof("record_type") == "history" for i in r.history.item}
    assert json.loads(history["train/loss"]) == 2.5
    assert json.loads(history["train/step"]) == 10
    assert "preview" in " ".join(history)
    summary = {i.key or "/".join(i.nested_key): i.value_json for r in logged
               if r.WhichOneof("record_type") == "summary" for i in r.summary.update}
    assert json.loads(summary["fid"]) == 12.5
    assert [r for r in logged if r.WhichOneof("record_type") == "exit"]


@pytest.mark.slow
def test_two_runs_in_one_process_are_two_runs(config, tmp_path: Path, offline: None) -> None:
    for seed in (0, 1):
        cfg = config(f"seed={seed}")
        tracker = WandbTracker("diffprune", None, None)
        tracker.start(cfg, Run.of(cfg))
        tracker.log({"loss": float(seed)}, 1)
        tracker.finish()
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*"))) == 2
