"""Cells done here: one that fails hides no other, an interruption goes on later, nothing of a cell is left for the next."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from diffprune import job as entry
from diffprune.config.naming import masked, run_folder
from diffprune.pipeline import Stages, reproduce
from diffprune.runs.cache import Cache
from diffprune.runs.provenance import provenance
from diffprune.runs.run import Run
from diffprune.runs.status import STALE, RunStatus, keep_status, put
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_folder, write_json
from diffprune.runtime.interrupt import RESUME
from experiments.planning.cells import Cell, lone, plan
from experiments.running import local, workers
from experiments.running.cell import main as one_cell
from experiments.running.workers import WORKER, own_first
from tests.conftest import ROOT

Body = Callable[[DictConfig, Run], None]


@pytest.fixture(scope="module")
def composed_cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """Three cells of one seed: dense, scratch, random."""
    return plan(["table1_digits"], [f"paths.runs={tmp_path_factory.mktemp('runs')}"], (0,)).cells[:3]


@pytest.fixture
def cells(composed_cells: list[Cell], tmp_path: Path) -> list[Cell]:
    """The same, in folders of their own."""
    return [replace(cell, folder=tmp_path / "runs" / "digits" / cell.folder.name,
                    overrides=(*(text for text in cell.overrides if not text.startswith("paths.")),
                               f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache")) for cell in composed_cells]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Body], None]]:
    """Puts a function in the place of the stages."""
    root = logging.getLogger()
    handlers = list(root.handlers)

    def replaced(body: Body) -> None:
        def reproduce(cfg: DictConfig, run: Run, healed: Callable[[], None]) -> None:
            with keep_status(run, cfg.until):
                body(cfg, run)
        monkeypatch.setattr(entry, "reproduce", reproduce)
        monkeypatch.setattr(entry, "show", lambda run: None)

    yield replaced
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()


def finish(cfg: DictConfig, run: Run) -> None:
    run.metrics.write_text("{}")


def states(cells: list[Cell]) -> list[str]:
    return [cell.status.state for cell in cells]


@pytest.mark.slow
def test_a_failing_cell_does_not_hide_the_others(cells, pretended, capsys) -> None:
    def body(cfg: DictConfig, run: Run) -> None:
        if cfg.pruner.name == "scratch":
            raise UserError("there is no such thing: take another")
        if cfg.pruner.name == "none":
            raise ZeroDivisionError("a defect")
        finish(cfg, run)

    pretended(body)
    assert local.run(cells) == local.FAILED
    assert states(cells) == ["failed", "failed", "done"]
    assert [cell.status.reason for cell in cells][:2] == ["ZeroDivisionError: a defect",
                                                            "there is no such thing: take another"]
    said = capsys.readouterr()
    assert "failed: scratch, seed 0: there is no such thing: take another" in said.err
    assert "Traceback" in said.out      # a defect's, for whoever mends it


@pytest.mark.slow
def test_only_what_is_missing_is_done(cells, pretended) -> None:
    begun = []
    pretended(lambda cfg, run: (begun.append(cfg.pruner.name), finish(cfg, run)))
    cells[0].folder.mkdir(parents=True)
    finish(None, cells[0].run)
    assert local.run(cells) == local.DONE
    assert begun == ["scratch", "random"]
    assert local.run(cells) == local.DONE
    assert begun == ["scratch", "random"]


@pytest.mark.slow
def test_a_request_to_stop_ends_the_work_and_the_same_command_goes_on(cells, pretended) -> None:
    pretended(lambda cfg, run: os.kill(os.getpid(), signal.SIGTERM) if cfg.pruner.name == "scratch" else finish(cfg, run))
    handler = signal.getsignal(signal.SIGTERM)
    assert local.run(cells) == RESUME
    assert states(cells) == ["done", "stopped", "waiting"]
    assert cells[1].status.reason == "stopped by SIGTERM: the same command goes on from here"
    assert signal.getsignal(signal.SIGTERM) == handler
    pretended(finish)
    assert local.run(cells) == local.DONE
    assert states(cells) == ["done"] * 3


def test_a_cell_that_somebody_else_does_is_left_to_them(cells, pretended) -> None:
    pretended(finish)
    with keep_status(cells[0].run, "evaluate"):
        assert local.run(cells[:1]) == RESUME
        assert cells[0].status.state == "running"
        finish(None, cells[0].run)
    assert local.run(cells[:1]) == local.DONE


def elsewhere(cell: Cell) -> None:
    """Another process is at work on the cell."""
    put(cell.run, RunStatus("running", cell.until, "another-machine", 1, time.time()))


def test_a_batch_job_waits_until_the_other_process_is_through(cells, pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done by the other it is done; where the other falls silent, the job does it."""
    begun = []
    pretended(lambda cfg, run: (begun.append(cfg.pruner.name), finish(cfg, run)))
    elsewhere(cells[0])
    monkeypatch.setattr(local.time, "sleep", lambda _: (finish(None, cells[0].run), cells[0].run.status.unlink()))
    assert local.run(cells[:1], wait=True) == local.DONE
    assert begun == []
    elsewhere(cells[1])
    silent = time.time() - STALE - 1
    monkeypatch.setattr(local.time, "sleep", lambda _: os.utime(cells[1].run.status, (silent, silent)))
    assert local.run(cells[1:2], wait=True) == local.DONE
    assert begun == ["scratch"]


def test_a_waiting_process_that_is_stopped_says_nothing_of_the_one_at_work(cells, pretended, monkeypatch) -> None:
    """Wherever it waits: for the run to be free, or, as a batch job, for the other process to end."""
    def waits(cfg: DictConfig, run: Run, healed: Callable[[], None]) -> None:
        elsewhere(cells[0])
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(entry, "reproduce", waits)
    assert local.run(cells[:1]) == RESUME
    assert (cells[0].status.state, cells[0].status.host) == ("running", "another-machine")
    monkeypatch.setattr(local.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    assert local.run(cells[:1], wait=True) == RESUME
    assert cells[0].status.state == "running"


@pytest.mark.slow
def test_what_failed_before_the_request_to_stop_is_told(cells, pretended, capsys) -> None:
    def body(cfg: DictConfig, run: Run) -> None:
        if cfg.pruner.name == "none":
            raise UserError("out of luck")
        os.kill(os.getpid(), signal.SIGTERM)

    pretended(body)
    assert local.run(cells) == RESUME
    assert "failed: dense, seed 0: out of luck" in capsys.readouterr().err


@pytest.mark.slow
def test_what_one_worker_tried_in_vain_no_other_tries(cells, pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def body(cfg: DictConfig, run: Run) -> None:
        begun.append(cfg.pruner.name)
        raise UserError("out of luck")

    pretended(body)
    monkeypatch.setenv(WORKER, f"0/2/{time.time()}")
    for _ in range(2):
        local.run(cells[:2], workers.started_at())
    assert begun == ["none", "scratch"]
    monkeypatch.setenv(WORKER, f"0/2/{time.time()}")     # a later command tries again
    local.run(cells[:2], workers.started_at())
    assert begun == ["none", "scratch"] * 2


@pytest.mark.slow
def test_a_mistake_in_a_cells_options_is_its_failure(cells, pretended) -> None:
    pretended(finish)
    wrong = replace(cells[1], overrides=(*cells[1].overrides, "pruner.ratio=1.5"))
    assert local.run([wrong, cells[2]]) == local.FAILED
    assert "pruner.ratio=1.5" in wrong.status.reason
    assert cells[2].status.state == "done"


class Model:
    """Stands for what a cell holds."""


@pytest.mark.slow
def test_nothing_of_a_cell_is_left_when_it_is_over(cells, pretended) -> None:
    held = []

    def body(cfg: DictConfig, run: Run) -> None:
        gc.collect()
        assert not [model for model in held if model() is not None]
        model = Model()
        held.append(weakref.ref(model))
        raise ValueError("holds the model by its traceback")

    pretended(body)
    before = HydraConfig.instance().cfg
    assert local.run(cells) == local.FAILED
    assert len(held) == 3
    assert held[-1]() is None
    assert HydraConfig.instance().cfg is before


def test_a_cell_keeps_its_own_log_and_command(cells, pretended) -> None:
    pretended(lambda cfg, run: run.metrics.write_text(json.dumps(provenance())))
    assert local.run(cells[2:]) == local.DONE
    command = json.loads(cells[2].run.metrics.read_text())["command"]
    assert command.startswith("python -m diffprune dataset=digits pruner=random seed=0")
    assert (cells[2].folder / "diffprune.log").exists()


def test_cells_that_differ_in_sampling_alone_share_one_healed_model(config, tmp_path: Path) -> None:
    few, first = lone(["sampler.steps=10", f"paths.runs={tmp_path}/runs"]), Run(run_folder(cfg := config()))
    first.open(OmegaConf.to_yaml(masked(cfg), resolve=True))
    for file in (first.scores, first.prune_report, first.progress, first.held_out_losses):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    for folder in (first.pruned, first.finetuned):
        folder.mkdir()
        (folder / "weights").write_text(folder.name)
    with ExitStack() as held:
        local.share_model(few, Cache(tmp_path / "cache"), held)
        assert (few.run.finetuned / "weights").read_text() == "finetuned"
        assert (few.run.pruned / "weights").samefile(first.pruned / "weights")
        assert few.run.progress.read_text() == "progress.jsonl"
        assert few.run.held_out_losses.read_text() == "held_out.json"
    assert not few.run.metrics.exists()
    other = lone(["sampler.steps=10", "schedule.steps=7", f"paths.runs={tmp_path}/runs"])
    with ExitStack() as held:
        local.share_model(other, Cache(tmp_path / "cache"), held)
        assert not other.folder.exists()


@pytest.mark.parametrize("file", ["finetuned/weights", "prune.json", ".hydra/config.yaml"])
def test_a_damaged_model_is_not_shared(config, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    few, first = lone(["sampler.steps=10", f"paths.runs={tmp_path}/runs"]), Run(run_folder(cfg := config()))
    first.open(OmegaConf.to_yaml(masked(cfg), resolve=True))
    write_json(first.prune_report, {}, checksum=True)
    with atomic_folder(first.finetuned) as partial_folder:
        partial_folder.mkdir()
        (partial_folder / "weights").write_text("finetuned")
    (first.folder / file).write_text("damaged: [")
    with ExitStack() as held:
        local.share_model(few, cache := Cache(tmp_path / "cache"), held)
        assert not few.folder.exists()
        assert not free(cache.lock(f"model-{few.model}"))      # this cell makes the model that others wait for
    assert f"the model of {first.folder} is not taken: {first.folder / file}" in caplog.text


def free(lock: Path) -> bool:
    """Whether nobody holds the lock now."""
    try:
        with FileLock(lock, timeout=0, thread_local=False):
            return True
    except Timeout:
        return False


@pytest.mark.slow
def test_cells_of_one_model_wait_for_its_healing_and_for_nothing_after_it(config, tmp_path: Path, monkeypatch) -> None:
    """The maker holds the model until it is there, a taker while it takes it: both sample and evaluate beside each other."""
    words = ["schedule.steps=1", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache", "logger=none"]
    maker, taker = lone(words), lone([*words, "sampler.steps=10"])
    lock, seen = Cache(tmp_path / "cache").lock(f"model-{maker.model}"), []

    def reproduce(cfg: DictConfig, run: Run, healed: Callable[[], None]) -> None:
        Run(run_folder(cfg)).open(OmegaConf.to_yaml(masked(cfg), resolve=True))
        seen.append((run.finetuned.exists(), free(lock)))
        run.finetuned.mkdir(exist_ok=True)
        healed()
        seen.append(free(lock))

    monkeypatch.setattr(entry, "reproduce", reproduce)
    for cell in (maker, taker):
        local.do(cell)
    assert seen == [(False, False), True, (True, True), True]


def test_the_model_is_there_when_a_run_says_so(config, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(Stages, "__call__", lambda self, name, *_: said.append(name))
    reproduce(cfg := config(), Run(run_folder(cfg)), healed=lambda: said.append("healed"))
    assert said == ["score", "prune", "finetune", "healed", "sample", "evaluate"]


@pytest.mark.slow
def test_a_batch_systems_command_does_the_cell(pretended, tmp_path: Path) -> None:
    pretended(finish)
    words = ["seed=1", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache"]
    assert one_cell(words) == local.DONE
    assert lone(words).status.state == "done"
    assert one_cell([*words, "pruner.ratio=1.5"]) == local.FAILED
    assert "pruner.ratio=1.5" in lone([*words, "pruner.ratio=1.5"]).status.reason


def test_workers_begin_at_different_cells_and_leave_none_out(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_first(cells) == cells
    begun = []
    for k in range(2):
        monkeypatch.setenv(WORKER, f"{k}/2/0.0")
        assert sorted(cell.title for cell in own_first(cells)) == sorted(cell.title for cell in cells)
        begun.append(own_first(cells)[0].title)
    assert begun == ["dense", "scratch"]


@pytest.mark.slow
def test_many_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    """13 cells, four processes, one runs folder and one cache: every cell is made once, no file is torn."""
    command = [sys.executable, "-m", "experiments", "run", "table1_digits", "--seeds", ",".join(map(str, range(12))),
               "pruner=random", "until=score", "logger=none", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache"]
    done = subprocess.run([*command, "--workers", "4"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == local.DONE, done.stderr
    said = [done.stdout]
    folders = list((tmp_path / "runs" / "digits").iterdir())
    assert len(folders) == sum(text.count("score …") for text in said) == 13
    for folder in folders:
        assert json.loads((folder / "status.json").read_text())["state"] == "done"
        with safe_open(folder / "scores.safetensors", "np") as file:
            assert json.loads(file.metadata()["about"])["criterion"] == "random"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_a_cell_gives_the_same_bits_alone_and_after_others(tmp_path: Path) -> None:
    def healed(where: str, *seeds: str) -> bytes:
        folders = [f"paths.runs={tmp_path}/{where}", f"paths.cache={tmp_path}/{where}-cache"]
        cells = [lone(["experiment=smoke", "pruner=random", "schedule.steps=2", "schedule.preview_every=0", "until=finetune",
                       "logger=none", f"seed={seed}", *folders]) for seed in seeds]
        assert local.run(cells) == local.DONE
        return (cells[-1].run.finetuned / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    assert healed("after-others", "0", "1") == healed("alone", "1")
