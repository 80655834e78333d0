"""The command line, as a person meets it."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.upkeep import kill_test
from tests.conftest import ROOT
from tests.processes import NewPython

Command = Callable[..., subprocess.CompletedProcess]


@contextmanager
def as_a_person_does() -> Iterator[None]:
    """Starts a new Python for each command, where its imports or the time that they take are looked at."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", NewPython)
        yield


@pytest.fixture
def new_python() -> Iterator[None]:
    with as_a_person_does():
        yield


@pytest.fixture
def diffprune(tmp_path: Path) -> Command:
    """Runs `python -m diffprune` with its runs and cache in tmp_path."""
    def command(*overrides: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(line(tmp_path, *overrides), cwd=ROOT, capture_output=True, text=True, env=environment(),
                              check=False, **options)
    return command


def line(tmp_path: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "diffprune", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache", *overrides]


def environment() -> dict[str, str]:
    return os.environ | {"WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}


@pytest.mark.usefixtures("new_python")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("module", [["diffprune"], ["experiments.running.cell"], ["experiments", "run", "table1_digits"]],
                         ids=["run", "cell", "table"])
def test_a_request_while_the_command_starts_ends_it_as_one_in_its_work(tmp_path: Path, module: list[str],
                                                                       number: int) -> None:
    python, option, _, *words = line(tmp_path)
    process = subprocess.Popen([python, option, *module, *words], cwd=ROOT, env=environment(), stderr=subprocess.PIPE,
                               text=True)
    while not kill_test.listens(process):
        time.sleep(0.001)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "stopped: the same command goes on from what is finished\n"
    assert process.returncode == 75
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_rank_without_the_number_of_ranks_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(line(tmp_path), cwd=ROOT, env=environment() | {"RANK": "1"}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the environment has RANK=1, which no launcher sets: give RANK")
    assert done.stderr.count("\n") == 1


def processor_seconds() -> float:
    """What processes this one started and waited for have used so far: a wall clock also counts what others do."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def only_run(tmp_path: Path) -> Path:
    runs = [f.parent.parent for f in (tmp_path / "runs").glob("*/*/.hydra/config.yaml")]
    assert len(runs) == 1
    return runs[0]


def contents(folder: Path) -> dict[str, str]:
    """{file: digest} of everything in a run folder that does not tell the time or a path."""
    skipped = ("config.yaml", "diffprune.log", "metrics.json", "report.html", "prune.json", "scores.safetensors",
               "samples.json", "progress.jsonl", "status.json")
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*")) if f.is_file() and f.name not in skipped and f.suffix != ".sha256"}


def numbers(folder: Path) -> dict:
    """The metrics without what a clock or a command line puts there."""
    timed = {"seconds", "images_per_second", "images_per_second_dense", "speedup", "command", "commit"}
    return {k: v for k, v in json.loads((folder / "metrics.json").read_text()).items() if k not in timed}


@pytest.mark.usefixtures("new_python")
@pytest.mark.parametrize(("override", "words"), [
    ("pruner.rato=.3", ["pruner.rato"]), ("pruner=tayler", ["pruner/tayler", "taylor"]),
    ("pruner.ratio=1.5", ["pruner.ratio=1.5", "[0, 1)"]), ("pruner.ratio=many", ["pruner.ratio", "many"]),
    ("pruner.threshold=-1", ["pruner.threshold=-1"]), ("device=tpu", ["device=tpu", "cuda:N"]),
    pytest.param("device=cuda:9", ["device=cuda:9"], marks=pytest.mark.slow), ("until=lunch", ["until=lunch", "score"]),
    ("model.checkpoint=/no/such/folder", ["/no/such/folder", "does not exist"]),
    ("dataset.path=/no/such/folder", ["/no/such/folder"]), ("experiment=nothing", ["experiment/nothing"]),
    ("pruner.ratio", ["pruner.ratio"])])
def test_a_mistake_is_one_sentence_and_a_failing_exit(diffprune: Command, override: str, words: list[str]) -> None:
    done = diffprune(override, "logger=none")
    assert done.returncode not in (0, None)
    said = done.stderr.strip()
    assert "Traceback" not in said + done.stdout
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    for word in words:
        assert word in said


@pytest.mark.usefixtures("new_python")
def test_nothing_is_made_before_a_mistake_is_found(diffprune: Command, tmp_path: Path) -> None:
    diffprune("pruner.ratio=1.5")
    assert not (tmp_path / "cache").exists()
    assert not list((tmp_path / "runs").glob("*/*/.hydra")) if (tmp_path / "runs").exists() else True


@pytest.mark.usefixtures("new_python")
def test_help_is_quick_and_needs_no_torch(diffprune: Command) -> None:
    start = processor_seconds()
    done = diffprune("--help")
    assert done.returncode == 0
    assert "pruner: " in done.stdout
    assert processor_seconds() - start < 3


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """One finished smoke run with the default logger, shared by the tests below: (its temporary folder, the process)."""
    folder = tmp_path_factory.mktemp("smoke")
    start = processor_seconds()
    with as_a_person_does():
        done = subprocess.run(line(folder, "experiment=smoke"), cwd=ROOT, capture_output=True, text=True, env=environment(),
                              check=False)
    assert done.returncode == 0, done.stderr
    assert processor_seconds() - start < 60
    return folder, done


@pytest.mark.slow
def test_the_run_folder_holds_what_the_design_lists(smoke: tuple) -> None:
    run = only_run(smoke[0])
    checksums = {str(file.relative_to(run)) for file in run.rglob(".*.sha256")}
    assert checksums == {".data.json.sha256", ".model.json.sha256", ".scores.safetensors.sha256", ".prune.json.sha256",
                         ".provenance.json.sha256", ".metrics.json.sha256", ".hydra/.config.yaml.sha256",
                         "finetune/.progress.jsonl.sha256", "finetune/.held_out.json.sha256",
                         "samples/.images.npy.sha256", "samples/.samples.json.sha256"}
    names = {str(file.relative_to(run)) for file in run.rglob("*")} - checksums
    assert {name for name in names if "/" not in name} == {
        ".hydra", "data.json", "model.json", "scores.safetensors", "prune.json", "pruned", "finetune", "finetuned",
        "samples", "metrics.json", "provenance.json", "report.html", "status.json", "diffprune.log"}
    assert {name for name in names if name.startswith((".hydra/", "finetune/", "samples/"))} == {
        ".hydra/config.yaml", "finetune/progress.jsonl", "finetune/held_out.json", "finetune/preview-000003.png",
        "finetune/preview-000006.png",
        "samples/images.npy", "samples/grid.png", "samples/samples.json"}
    for model in ("pruned", "finetuned"):
        assert {f.name for f in (run / model / "unet").iterdir()} == {
            "config.json", "diffusion_pytorch_model.safetensors", "pruned.py", "widths.json"}
    assert [json.loads(entry)["step"] for entry in (run / "finetune" / "progress.jsonl").read_text().splitlines()] == [
        1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_metrics_are_complete_and_finite(smoke: tuple) -> None:
    metrics = json.loads((only_run(smoke[0]) / "metrics.json").read_text())
    for key in ("params", "macs", "params_dense", "macs_dense", "fid", "ssim", "fid_dense", "fid_before_healing",
                "ssim_before_healing", "images_per_second", "images_per_second_dense", "speedup"):
        assert np.isfinite(metrics[key]), key
        assert metrics[key] > 0, key
    assert metrics["features"] == "digits-cnn"
    assert metrics["images"] == 80
    assert metrics["protocol"]["features_accuracy"] >= 0.97
    assert metrics["protocol"]["ssim_window"] == 7
    assert metrics["params"] < metrics["params_dense"]
    assert set(metrics["seconds"]) == {"score", "prune", "finetune", "sample", "evaluate"}
    assert np.load(only_run(smoke[0]) / "samples" / "images.npy").shape == (80, 8, 8, 1)


@pytest.mark.slow
def test_the_table_and_the_report_are_announced(smoke: tuple) -> None:
    said = smoke[1].stdout
    assert "before healing" in said
    assert str(only_run(smoke[0]) / "report.html") in said


@pytest.mark.slow
def test_the_grid_has_a_row_for_dense_healed_and_unhealed(smoke: tuple) -> None:
    assert Image.open(only_run(smoke[0]) / "samples" / "grid.png").size == (16 * 9 + 1, 3 * 9 + 1)


@pytest.mark.slow
def test_an_offline_wandb_run_lies_beside_the_runs(smoke: tuple) -> None:
    name = only_run(smoke[0]).name
    assert list((smoke[0] / "runs" / "wandb").glob(f"offline-run-*-{name[-64:]}"))
    assert "wandb sync" in smoke[1].stdout


@pytest.mark.usefixtures("new_python")
@pytest.mark.slow
def test_repeating_a_finished_run_touches_nothing_but_its_log(smoke: tuple) -> None:
    run = only_run(smoke[0])

    def states() -> dict[str, tuple[int, bytes]]:
        return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in smoke[0].rglob("*")
                if f.is_file() and f.name != "diffprune.log" and f.suffix != ".lock"}

    before, start = states(), processor_seconds()
    done = subprocess.run(line(smoke[0], "experiment=smoke"), cwd=ROOT, capture_output=True, text=True,
                          env=environment(), check=True)
    assert processor_seconds() - start < 10
    assert states() == before
    assert str(run) in done.stdout


@pytest.mark.slow
def test_deleting_the_metrics_redoes_the_evaluation_alone(smoke: tuple, tmp_path: Path) -> None:
    shutil.copytree(smoke[0], tmp_path, dirs_exist_ok=True)
    run = only_run(tmp_path)
    before, expected = contents(run), numbers(run)
    (run / "metrics.json").unlink()
    done = subprocess.run(line(tmp_path, "experiment=smoke", "logger=none"), cwd=ROOT, capture_output=True, text=True,
                          env=environment(), check=True)
    assert [said for said in done.stdout.splitlines() if said.endswith("…")] == ["evaluate …"]
    assert contents(run) == before
    assert numbers(run) == expected


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_as_one_that_never_was(smoke: tuple, tmp_path: Path) -> None:
    for stage in ("score", "prune", "finetune", "sample", "evaluate"):
        process = subprocess.Popen(line(tmp_path, "experiment=smoke", "logger=none"), cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
        for said in process.stdout:
            if said.startswith(f"{stage} …"):
                time.sleep(0.2)
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"{stage} was over before the kill"
    done = subprocess.run(line(tmp_path, "experiment=smoke", "logger=none"), cwd=ROOT, capture_output=True, text=True,
                          env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    killed, whole = only_run(tmp_path), only_run(smoke[0])
    assert contents(killed) == contents(whole)
    assert numbers(killed) == numbers(whole)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_a_sweep_does_every_job_although_one_fails(tmp_path: Path) -> None:
    done = subprocess.run([*line(tmp_path)[:3], "-m", *line(tmp_path)[3:], "experiment=smoke", "until=prune", "logger=none",
                               "pruner.calibration_batch=8,9999,4"], cwd=ROOT, capture_output=True, text=True,
                          env=environment(), check=False)
    assert done.returncode != 0
    assert "calibration_batch=9999" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "runs").glob("*/*/prune.json"))) == 2


@pytest.mark.slow
def test_until_stops_early_and_a_repeat_goes_on(diffprune: Command, tmp_path: Path) -> None:
    def there() -> set[str]:
        return {f.name for f in only_run(tmp_path).iterdir() if f.suffix != ".sha256"} - {
            ".hydra", "data.json", "model.json", "provenance.json", "diffprune.log", "status.json"}
    assert diffprune("experiment=smoke", "logger=none", "until=score").returncode == 0
    assert there() == {"scores.safetensors"}
    assert diffprune("experiment=smoke", "logger=none", "until=prune").returncode == 0
    assert there() == {"scores.safetensors", "prune.json", "pruned"}
