"""Real processes: several on one run, stopped and killed ones. Every test starts a few, which takes its time."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from omegaconf import DictConfig
from safetensors.torch import load_file

from diffprune.config.naming import run_folder
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime.files import write_json
from diffprune.sampling.draw import one_thread
from diffprune.stages import finetune
from diffprune.tracking.tracker import Tracker
from tests import data_sets_on_disk as made
from tests.conftest import ROOT, tiny_unet, tuned
from tests.training.test_finetune import SHORT, digest, pruned

pytestmark = pytest.mark.slow
LATE = "another process of this run is gone"


def options(folder: Path, *more: str) -> tuple[str, ...]:
    return (f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "logger=none", "until=finetune", "device=cpu",
            *SHORT, *more)


def ready(folder: Path, *more: str) -> tuple[DictConfig, Run]:
    """A run that has only its fine-tuning left to do."""
    cfg = tuned(*(option for option in options(folder, *more) if option != "logger=none"))
    run = pruned(Run(run_folder(cfg)).folder)
    run.scores.touch()
    write_json(run.prune_report, {})
    return cfg, run


def alone(folder: Path, *more: str) -> Run:
    """The same run in this one process; with one thread, as `start` gives to each."""
    cfg, run = ready(folder, *more)
    with one_thread(torch.device("cpu")):
        finetune.stage(cfg, run, Tracker())
    return run


def start(*command: str, start_new_session: bool = False, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                            start_new_session=start_new_session)


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


@pytest.fixture
def pair() -> Callable[..., list[subprocess.Popen]]:
    """Starts two processes on one run, as a launcher does; none outlives its test."""
    started: list[subprocess.Popen] = []

    def both(*overrides: str, **environment: str) -> list[subprocess.Popen]:
        port = free_port()
        started.extend(start("diffprune", *overrides, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                             MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **environment) for rank in (0, 1))
        return started[-2:]
    yield both
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen) -> tuple[int, str]:
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def reached(run: Run, step: int) -> None:
    """Waits until the progress log has come to `step`."""
    deadline = time.monotonic() + 200
    while not run.progress.exists() or run.progress.read_text().count("\n") < step:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_come_to_what_one_comes_to(tmp_path: Path) -> None:
    """Equal to two micro-batches bit for bit: sums of two numbers. To an unsplit batch, whose sums have another order, up
    to 1e-6: half a percent of what Adam moves a weight in one of the eight steps (lr 2e-4). Batch 9 falls into 4 and 5.

    Left out is the bias of all keys alike, which changes no attention: its gradient is rounding, which Adam makes steps of.
    """
    runs = {batch: ready(tmp_path / "two", f"schedule.batch={batch}")[1] for batch in (8, 9)}
    command = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "diffprune", "-m")
    assert ended(start(*command, *(o for o in options(tmp_path / "two") if "batch" not in o), "schedule.batch=8,9"))[0] == 0
    split = alone(tmp_path / "split", "schedule.accumulate=2")
    assert digest(runs[8]) == digest(split)
    for batch, run in runs.items():
        one, two = (load_file(each.finetuned / "unet" / "diffusion_pytorch_model.safetensors")
                    for each in (alone(tmp_path / "one", f"schedule.batch={batch}"), run))
        start_of = load_file(run.pruned / "unet" / "diffusion_pytorch_model.safetensors")
        for name in one:
            if not name.endswith("to_k.bias"):
                torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)
        assert max(float((one[name] - start_of[name]).abs().max()) for name in one) > 5e-4


def test_a_whole_run_of_two_processes_is_that_of_one_with_two_micro_batches(tmp_path: Path, pair) -> None:
    """Both train, with terms that evaluate the networks several times, and draw; rank 0 alone does the rest, logs and
    writes."""
    def smoke(folder: Path) -> tuple[str, ...]:
        return (f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "logger=none", "experiment=smoke", "device=cpu",
                "schedule.objective={output: 1, kept_features: 1, jacobian_difference: 1}")
    both = pair(*smoke(tmp_path / "two"))
    (code, said), (other_code, other_said) = (ended(process) for process in both)
    assert (code, other_code, other_said) == (0, 0, ""), said + other_said
    assert [line for line in said.splitlines() if line.endswith("…")] == [
        f"{stage} …" for stage in ("score", "prune", "finetune", "sample", "evaluate")]
    assert ended(start("diffprune", *smoke(tmp_path / "one"), "schedule.accumulate=2", "until=sample"))[0] == 0
    (two,), (one,) = (sorted((tmp_path / which / "runs").glob("*/*")) for which in ("two", "one"))
    assert digest(Run(two)) == digest(Run(one))
    assert Run(two).images.read_bytes() == Run(one).images.read_bytes()
    assert Run(two).metrics.exists()


def test_accelerate_s_launcher_starts_a_run_and_its_environment_changes_nothing(tmp_path: Path) -> None:
    """What the launcher writes into the environment (here bf16) has no say beside the run's own options."""
    _, run = ready(tmp_path)
    pytest.importorskip("accelerate")
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "bf16", "-m", "diffprune")
    code, said = ended(start(*launch, *options(tmp_path)))
    assert code == 0, said
    assert digest(run) == digest(alone(tmp_path / "alone"))


def test_a_request_to_one_of_two_processes_stops_both(tmp_path: Path, pair) -> None:
    more = ("schedule.steps=400", "schedule.save_every=1000", "schedule.log_every=1")
    _, run = ready(tmp_path, *more)
    both = pair(*options(tmp_path, *more))
    reached(run, 3)
    both[1].send_signal(signal.SIGUSR1)
    (code, said), (other_code, _) = (ended(process) for process in both)
    assert (code, other_code) == (75, 75), said
    assert "stopped by SIGUSR1" in said
    (kept,) = run.states
    assert 3 <= int(kept.stem.split("-")[1]) < 400


@pytest.mark.parametrize("stage", ["score", "sample", "evaluate"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_request_to_one_of_two_processes_stops_both_outside_the_training_too(tmp_path: Path, pair, stage: str,
                                                                               rank: int) -> None:
    both = pair(f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache", "logger=none", "device=cpu",
                "experiment=smoke", f"pruner.calibration_batch={256 if stage == 'score' else 8}",
                f"evaluate.images={80 if stage == 'evaluate' else 2000}", PYTHONUNBUFFERED="1")
    for line in both[0].stdout:
        if line.startswith(f"{stage} …"):
            break
    time.sleep(0.2)
    start = time.monotonic()
    both[rank].send_signal(signal.SIGUSR1)
    (code, said), (other_code, other_said) = (ended(process) for process in both)
    assert (code, other_code) == (75, 75), said + other_said
    assert "stopped by SIGUSR1" in said
    assert other_said == ""
    assert time.monotonic() < start + 30


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_one_that_never_comes_can_be_stopped(tmp_path: Path, rank: int) -> None:
    _, run = ready(tmp_path)
    process = start("diffprune", *options(tmp_path), RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2",
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    time.sleep(3)       # it waits by then, or still starts
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code, said = ended(process)
    assert code == 75, said
    assert "Traceback" not in said
    assert time.monotonic() - asked < 10
    assert not run.finetuned.exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_others(tmp_path: Path, pair, killed: int) -> None:
    more = ("schedule.steps=4000", "schedule.save_every=4000", "schedule.log_every=1")
    _, run = ready(tmp_path, *more)
    both = pair(*options(tmp_path, *more))
    reached(run, 3)
    both[killed].kill()
    code, said = ended(both[1 - killed])
    assert code == 1, said
    assert LATE in said, said
    assert "Traceback" not in said


def test_a_mistake_ends_all_and_the_others_write_nothing(tmp_path: Path, pair) -> None:
    both = pair(*options(tmp_path), "until=score", "pruner.calibration_batch=9999")
    (code, said), (other_code, other_said) = (ended(process) for process in both)
    assert code == other_code == 1
    assert "error: pruner.calibration_batch=9999" in said
    assert LATE in other_said
    assert "Traceback" not in said + other_said


def test_rank_0_of_srun_s_tasks_alone_logs_and_writes(tmp_path: Path) -> None:
    _, run = ready(tmp_path)
    tasks = [start("diffprune", *options(tmp_path), SLURM_NTASKS="2", SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank),
                   MASTER_PORT=port) for port in [free_port()] for rank in (0, 1)]
    (code, said), (other_code, other_said) = (ended(task) for task in tasks)
    assert (code, other_code) == (0, 0), said + other_said
    assert "finetune …" in said
    assert other_said == ""
    assert run.finetuned.is_dir()
    assert (run.folder / "diffprune.log").read_text().count("finetune …") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_exit_status_says_that_a_run_can_go_on(tmp_path: Path, number: int, code: int) -> None:
    more = ("schedule.steps=4000", "schedule.save_every=4000", "schedule.log_every=1")
    _, run = ready(tmp_path, *more)
    process = start("diffprune", *options(tmp_path, *more))
    reached(run, 3)
    process.send_signal(number)
    asked = time.monotonic()
    said = ended(process)
    assert said[0] == code, said[1]
    assert "the same command goes on from here" in said[1]
    assert "Traceback" not in said[1]
    assert len(run.states) == 1
    assert time.monotonic() - asked < 10


def streamed(folder: Path) -> list[str]:
    """A run of many steps on images that two processes read."""
    made.folder(folder / "images", size=(8, 8))
    save_model(DiffusionModel(tiny_unet(channels=3), DDIMScheduler()), folder / "dense")
    return [*options(folder), "schedule.steps=4000", "schedule.save_every=4000", "schedule.log_every=1",
            "dataset=image_folder", f"dataset.path={folder}/images", "dataset.resolution=8", "dataset.memory_gb=0",
            "dataset.workers=2", "model=diffusers", f"model.checkpoint={folder}/dense", "pruner=magnitude",
            "evaluate.ssim_window=7"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_all_processes_of_a_run_that_streams_keeps_its_state(tmp_path: Path, number: int) -> None:
    """As `timeout` and Slurm send it: the processes that read must not die of it before their reader has what it needs."""
    command = streamed(tmp_path)
    process = start("diffprune", *command, start_new_session=True)
    run = begun_run(tmp_path)
    reached(run, 3)
    readers = children(process.pid)
    assert len(readers) >= 2
    os.killpg(process.pid, number)
    code, said = ended(process)
    assert code == 75, said
    assert "Traceback" not in said
    assert len(run.states) == 1
    assert not any(map(alive, readers))


def test_processes_that_read_end_with_a_killed_run(tmp_path: Path) -> None:
    process = start("diffprune", *streamed(tmp_path))
    reached(begun_run(tmp_path), 3)
    readers = children(process.pid)
    assert len(readers) >= 2
    process.kill()
    ended(process)
    deadline = time.monotonic() + 30
    while any(map(alive, readers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def begun_run(folder: Path) -> Run:
    """The only run, once its folder is there."""
    deadline = time.monotonic() + 200
    while not (found := list((folder / "runs").glob("*/*/.hydra"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Run(found[0].parent)


@pytest.mark.parametrize(("stage", "number", "code"), [("score", signal.SIGTERM, 75), ("sample", signal.SIGUSR1, 75),
                                                       ("evaluate", signal.SIGINT, 130)])
def test_a_request_outside_the_training_is_answered_as_in_it(tmp_path: Path, stage: str, number: int, code: int) -> None:
    process = start("diffprune", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache", "logger=none", "device=cpu",
                    "experiment=smoke", f"pruner.calibration_batch={256 if stage == 'score' else 8}",
                    "schedule.preview_every=0", PYTHONUNBUFFERED="1")
    for line in process.stdout:
        if line.startswith(f"{stage} …"):
            break
    time.sleep(0.2)
    process.send_signal(number)
    said = process.stdout.read()
    assert process.wait(timeout=60) == code, said
    assert said.strip().endswith(f"stopped by {signal.Signals(number).name}: the same command goes on from here"), said
    assert "Traceback" not in said
    stood = RunStatus.of(begun_run(tmp_path))
    assert (stood.state, stood.pid) == ("stopped", process.pid)
    assert signal.Signals(number).name in stood.reason


def test_a_run_killed_again_and_again_ends_as_one_that_never_was(tmp_path: Path) -> None:
    """`kill -9` at random moments of the training."""
    more = ("schedule.steps=200", "schedule.save_every=5", "schedule.log_every=1")
    _, run = ready(tmp_path / "killed", *more)
    rng, kills = random.Random(0), 0
    for _ in range(3):
        process = start("diffprune", *options(tmp_path / "killed", *more))
        done = run.progress.read_text().count("\n") if run.progress.exists() else 0
        reached(run, min(190, max(0, done) + rng.randrange(8, 25)))
        time.sleep(rng.random() / 50)
        process.kill()
        kills += ended(process)[0] == -signal.SIGKILL
    assert kills == 3
    assert run.states
    assert ended(start("diffprune", *options(tmp_path / "killed", *more)))[0] == 0
    assert digest(run) == digest(alone(tmp_path / "whole", *more))
