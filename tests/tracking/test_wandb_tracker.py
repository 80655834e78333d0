"""Trackers: the real client, offline, read back from its own files."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import wandb
from omegaconf import DictConfig
from PIL import Image
from wandb.proto import wandb_internal_pb2

from diffprune.config.naming import run_folder
from diffprune.runs.run import Run
from diffprune.runtime.files import read_json, write_json
from diffprune.stages.options import description
from diffprune.stages.prune import track_widths
from diffprune.tracking.tracker import Tracker
from diffprune.tracking.wandb_tracker import WandbTracker, flat, job_type, plain_name, short_names


def test_the_configuration_is_flat_enough_to_group_by(config) -> None:
    values = flat(description(config("pruner.ratio=.4")).options)
    assert values["pruner/ratio"] == 0.4
    assert values["dataset/name"] == "digits"
    assert not any(isinstance(value, dict) for value in values.values())


@pytest.mark.parametrize(("overrides", "left_out", "kind"), [
    (("pruner.target.macs=.5",), {"prune/ratio"}, "prune"), (("pruner/timesteps=window",), {"prune/threshold"}, "prune"),
    (("pruner=none", "schedule=none"), {"prune/threshold"}, "dense"), (("pruner=scratch",), {"prune/threshold"}, "scratch")])
def test_an_option_that_had_no_say_is_not_stated(config, overrides: tuple[str, ...], left_out: set[str], kind: str) -> None:
    names = {"prune/criterion", "prune/ratio", "prune/threshold", "train/steps"}
    science = description(config(*overrides)).science
    assert set(short_names(science)) == names - left_out
    assert job_type(science) == kind


def test_the_plain_tracker_takes_everything_and_keeps_nothing(config, tmp_path: Path) -> None:
    tracker, cfg = Tracker(), config()
    tracker.start(Run(run_folder(cfg)), description(cfg))
    tracker.log({"loss": 1.0}, 1)
    tracker.image("preview", tmp_path / "none.png", 1)
    tracker.summary({"fid": 1.0})
    tracker.finish()
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["d" * 200, "a/b:c,d#e?f'g;h%i", "=cmd", "x\n\"y"])
def test_any_name_is_one_that_the_service_takes(config, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cfg = config()
    cfg.dataset.name = cfg.model.name = name
    labels = WandbTracker("diffprune", None, None).labels(Run(run_folder(cfg)), description(cfg))
    wandb.Settings(run_id=labels["id"], run_tags=labels["tags"])        # raises for what it does not take
    assert labels["id"].endswith(run_folder(cfg).name[-8:])
    assert max(map(len, (labels["name"], labels["group"]))) <= 128
    wandb.Artifact(plain_name(f"{name}-dense", 128), "model")           # raises as well


def test_a_run_is_shown_as_what_it_does_and_what_its_sweep_varies(config) -> None:
    cfg, tracker = config("schedule.lr=1e-5"), WandbTracker("diffprune", None, None)
    plain = tracker.labels(Run(run_folder(cfg)), description(cfg))
    swept = tracker.labels(Run(run_folder(cfg, ["schedule.lr=1e-5"])), description(cfg))
    assert plain["name"] == "diff_pruning T0.05 r0.3 finetune_digits s0"
    assert swept["name"] == "diff_pruning T0.05 r0.3 finetune_digits lr1e-05 s0"


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


def opened(cfg: DictConfig, **options: Any) -> WandbTracker:
    tracker = WandbTracker("diffprune", None, options.pop("group", None), **options)
    tracker.start(Run(run_folder(cfg)), description(cfg))
    return tracker


def written(folder: Path, name: str) -> list:
    """The records of the only offline run of that id; its writer, another process, is waited for."""
    wandb.teardown()
    (file,) = (folder / "runs" / "wandb").glob(f"offline-run-*/run-{name[-64:]}.wandb")
    return records(file)


def of_kind(logged: list, kind: str) -> list:
    return [getattr(record, kind) for record in logged if record.WhichOneof("record_type") == kind]


def items(entries: Iterable) -> dict[str, Any]:
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


@pytest.mark.slow
def test_without_a_login_a_run_is_kept_offline_and_complete(config, tmp_path: Path, offline: None) -> None:
    cfg = config()
    run = Run(run_folder(cfg))
    write_json(run.prune_report, {"params": 30, "macs": 20, "params_dense": 60, "macs_dense": 50, "layers": {
        "conv_in": {"before": [8, 1, 3, 3], "after": [6, 1, 3, 3]},
        "conv_out": {"before": [1, 8, 3, 3], "after": [1, 6, 3, 3]}}})
    write_json(run.metrics, {"fid": 12.5})
    run.scores.write_bytes(b"scores")
    tracker = opened(cfg, group="table1", tags=["night", "t" * 99], notes="with the new data")
    track_widths("diff_pruning", read_json(run.prune_report)["layers"], tracker)
    tracker.log({"held_out_loss": 7.5}, 0)
    tracker.log({"loss": 2.5, "lr": 1e-4}, 10)
    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    tracker.image("preview", tmp_path / "p.png", 10)
    tracker.image("samples", tmp_path / "p.png")
    tracker.summary({"fid": 12.5, "speedup": 1.5, "params": 30, "params_dense": 60})
    tracker.finish()
    logged = written(tmp_path, run.name)

    (started, *_) = of_kind(logged, "run")
    assert (started.display_name, started.run_id) == ("diff_pruning T0.05 r0.3 finetune_digits s0", run.name[-64:])
    assert (started.run_group, started.job_type) == ("table1", "prune")
    assert set(started.tags) == {"digits", "diff_pruning", "ddpm_digits", "night", "t" * 64}
    assert started.notes == "with the new data"
    asked = items(started.config.update)
    assert asked.items() >= {"pruner/ratio": 0.3, "prune/ratio": 0.3, "prune/threshold": 0.05, "seed": 0,
                             "prune/criterion": "diff_pruning", "train/steps": cfg.schedule.steps}.items()

    history = items(item for entry in of_kind(logged, "history") for item in entry.item)
    assert (history["train/loss"], history["train/lr"], history["train/step"]) == (2.5, 1e-4, 10)
    assert history["train/held_out_loss"] == 7.5        # measured before the first step, after the picture of the widths
    assert {f"images/{name}" for name in ("preview", "samples", "widths")} <= {key.partition("/_")[0] for key in history}
    media = {path.name.rpartition("_")[0] for path in (tmp_path / "runs").rglob("media/images/**/*.png")}
    assert any(name.startswith("widths") for name in media)
    assert any(name.startswith("preview") for name in media)

    summary = items(item for entry in of_kind(logged, "summary") for item in entry.update)
    assert summary.items() >= {"quality/fid": 12.5, "speed/speedup": 1.5, "achieved/params": 30,
                               "achieved/params_ratio": 0.5, "achieved/macs_ratio": 0.4}.items()
    metrics = {metric.name or metric.glob_name: metric for metric in of_kind(logged, "metric")}
    assert metrics["train/loss"].step_metric == "train/step"
    assert metrics["train/loss"].summary.min
    kinds = {artifact.name: artifact for artifact in of_kind(logged, "artifact")}
    assert {name.removeprefix(f"{run.name[-64:]}-") for name in kinds} == {"scores", "metrics"}
    made_from = {name: json.loads(artifact.metadata)["made_from"] for name, artifact in kinds.items()}
    assert set(made_from.values()) == {"ddpm_digits-dense", f"{run.name[-64:]}-scores"}
    assert of_kind(logged, "exit")


@pytest.mark.slow
@pytest.mark.parametrize("upload", [False, True])
def test_large_files_are_uploaded_only_where_that_was_asked_for(
        config, tmp_path: Path, offline: None, upload: bool) -> None:
    cfg = config()
    run = Run(run_folder(cfg))
    run.folder.mkdir(parents=True)
    run.scores.write_bytes(b"scores")
    opened(cfg, artifacts=upload).finish()
    (artifact,) = (entry for entry in of_kind(written(tmp_path, run.name), "artifact") if entry.type == "scores")
    (content,) = artifact.manifest.contents
    assert (content.ref == "") == upload
    assert upload or content.ref == run.scores.absolute().as_uri()


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id_and_its_steps(config, tmp_path: Path, offline: None,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cfg = config()
    for step in (10, 20):
        tracker = opened(cfg)
        tracker.log({"loss": 1.0}, step)
        tracker.finish()
        wandb.teardown()
        if step == 10:      # a folder's name has the second in which it began
            (first,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
            first.rename(first.with_name(first.name.replace("offline-run-", "offline-run-0")))
    files = sorted((tmp_path / "runs" / "wandb").glob(f"offline-run-*-{Run(run_folder(cfg)).name[-64:]}/*.wandb"))
    assert len(files) == 2
    steps = [next(entry.step.num for entry in of_kind(records(file), "history")) for file in files]
    assert steps == [10, 20]
    name = Run(run_folder(cfg)).name[-64:]
    command = f"wandb sync --id {name} {tmp_path}/runs/wandb/offline-run-*-{name}"
    assert command in caplog.text


@pytest.mark.slow
def test_two_runs_in_one_process_are_two_runs(config, tmp_path: Path, offline: None) -> None:
    for seed in (0, 1):
        tracker = opened(config(f"seed={seed}"))
        tracker.log({"loss": float(seed)}, 1)
        tracker.finish()
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.slow
def test_a_home_that_cannot_be_written_costs_nothing(config, tmp_path: Path, offline: None, caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", "x")    # put back afterwards
        monkeypatch.delenv(f"WANDB_{kind}_DIR")
    monkeypatch.setenv("HOME", "/dev/null/home")
    cfg = config()
    write_json(Run(run_folder(cfg)).metrics, {"fid": 1.0})
    opened(cfg).finish()
    assert [entry for entry in of_kind(written(tmp_path, Run(run_folder(cfg)).name), "artifact") if entry.type == "metrics"]
    assert "failed" not in caplog.text


class Failing(BaseHTTPRequestHandler):
    """A server that has nothing to give, as at an outage or a full quota."""

    def do_POST(self) -> None:
        self.send_response(403)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


class Service(BaseHTTPRequestHandler):
    """As much of the service as runs and artifacts need; `calls` are what it was asked for, each with its variables.

    One that is `tired` lets a run begin and never answers again.
    """
    tired = False
    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        (_, name, *_) = [*body.get("query", "").replace("(", " ").split(), "", ""]
        values = body.get("variables", {})
        values = values.get("input", values)
        self.calls.append((name, values))
        answer = {"UpsertBucket": self.upserted, "RunResumeStatus": lambda _: {"model": None},
                  "CreateArtifact": self.created, "ArtifactByID": self.found,
                  "Viewer": lambda _: {"viewer": {"id": "v", "entity": "somebody", "username": "somebody", "flags": "{}",
                                                  "teams": {"edges": []}}},
                  "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
                  "UseArtifact": lambda values: {"useArtifact": {"artifact": {"id": values["artifactID"]}}}}.get(name)
        if self.tired and name not in ("UpsertBucket", "RunResumeStatus"):
            time.sleep(600)     # in a daemon's thread
        self.send_response(200 if answer else 404)
        self.end_headers()
        if answer:
            self.wfile.write(json.dumps({"data": answer(values)}).encode())

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass

    @staticmethod
    def upserted(values: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "somebody"}}
        return {"upsertBucket": {"inserted": True, "bucket": {
            "id": "b", "name": values["name"], "displayName": values["name"], "description": None, "config": "{}",
            "sweepName": None, "historyLineCount": 0, "project": project}}}

    @staticmethod
    def created(values: dict[str, Any]) -> dict[str, Any]:
        """There already, so that no content is sent."""
        return {"createArtifact": {"artifact": {"id": values["artifactCollectionName"], "state": "COMMITTED",
                                                "artifactSequence": {"id": "s", "latestArtifact": None}}}}

    @staticmethod
    def found(values: dict[str, Any]) -> dict[str, Any]:
        sequence = {"__typename": "ArtifactSequence", "name": values["id"], "project": None}
        return {"artifact": {
            "__typename": "Artifact", "id": values["id"], "artifactSequence": sequence, "versionIndex": 0,
            "artifactType": {"name": "model"}, "description": None, "metadata": "{}", "ttlDurationSeconds": 0,
            "ttlIsInherited": True, "tags": [], "historyStep": None, "state": "COMMITTED", "size": 0, "digest": "d",
            "commitHash": "c", "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": []}}

@contextmanager
def listening(kind: str) -> Iterator[int]:
    """The port of a stand-in for the service."""
    if kind == "silent":
        with socket.create_server(("127.0.0.1", 0)) as taken:   # connections are taken, and nobody ever answers
            yield taken.getsockname()[1]
        return
    handler = {"failing": Failing, "tired": type("Tired", (Service,), {"tired": True}), "whole": Service}[kind]
    serving = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=serving.serve_forever, daemon=True).start()
    yield serving.server_port
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Has a stand-in for the service listen, at which somebody is logged in."""
    with ExitStack() as closing:
        closing.callback(wandb.teardown)

        def begin(kind: str) -> None:
            wandb.teardown()
            Service.calls.clear()
            port = closing.enter_context(listening(kind))
            monkeypatch.delenv("WANDB_MODE", raising=False)
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
            closing.callback(wandb.teardown)    # before its server goes
        yield begin


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silent", "failing"])
def test_a_server_that_does_not_work_stalls_nobody(config, tmp_path: Path, serve: Callable[[str], None], kind: str,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    serve(kind)
    cfg, start = config(), time.monotonic()
    tracker = opened(cfg, patience=3)
    tracker.log({"loss": 2.5}, 10)
    tracker.finish()
    assert time.monotonic() - start < 20
    assert caplog.text.count("W&B does not answer") == 1
    assert items(item for entry in of_kind(written(tmp_path, Run(run_folder(cfg)).name), "history") for item in entry.item)[
        "train/loss"] == 2.5


@pytest.mark.slow
def test_a_server_that_falls_silent_after_the_start_stalls_nobody_either(
        config, serve: Callable[[str], None], caplog: pytest.LogCaptureFixture) -> None:
    serve("tired")
    cfg, start = config(), time.monotonic()
    write_json(Run(run_folder(cfg)).metrics, {"fid": 1.0})
    tracker = opened(cfg, patience=3)
    assert not tracker.run.offline
    tracker.log({"loss": 2.5}, 10)
    tracker.finish()
    wandb.teardown()        # as a process's end does
    assert time.monotonic() - start < 25
    assert [record.getMessage().partition(";")[0] for record in caplog.records if record.name.endswith("wandb_tracker")] == [
        "W&B: artifacts failed (no answer within 3 s)"]


@pytest.mark.slow
def test_every_stage_uses_what_the_one_before_made(config, serve: Callable[[str], None],
                                                   caplog: pytest.LogCaptureFixture) -> None:
    serve("whole")
    cfg = config()
    run = Run(run_folder(cfg))
    write_json(run.metrics, {"fid": 1.0})
    run.scores.write_bytes(b"scores")
    run.pruned.mkdir()
    opened(cfg, patience=10).finish()
    name = run.name[-64:]
    assert [values.get("artifactCollectionName") or values["artifactID"] for call, values in Service.calls
            if call in ("CreateArtifact", "UseArtifact")] == [
        "ddpm_digits-dense", "ddpm_digits-dense", f"{name}-scores", f"{name}-scores", f"{name}-pruned",
        f"{name}-pruned", f"{name}-metrics"]
    assert [call for call, _ in Service.calls if call.endswith("eArtifact")] == [
        "CreateArtifact", "UseArtifact"] * 3 + ["CreateArtifact"]
    assert read_json(run.tracked)["url"].endswith(f"/somebody/diffprune/runs/{name}")
    assert "failed" not in caplog.text


def test_what_fails_is_said_once_and_the_run_goes_on(
        config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class Broken:
        finished = False

        def log(self, *_: Any, **__: Any) -> None:
            raise OSError(28, "no space left on device")

        def finish(self, **_: Any) -> None:
            self.finished = True
            raise ConnectionError("its other half is gone, too")

    broken = Broken()
    monkeypatch.setattr(WandbTracker, "opened", lambda self, cfg, run: broken)
    tracker = opened(config())
    for step in (1, 2, 3):
        tracker.log({"loss": 1.0}, step)
        tracker.summary({"fid": 1.0})
    tracker.finish()
    assert caplog.text.count("no space left on device") == 1
    assert len(caplog.records) == 1
    assert broken.finished
