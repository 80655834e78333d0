"""`-m`: many jobs in one process, each as if it were alone."""

import gc
import re
import subprocess
import weakref
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from diffprune import job as entry
from diffprune.config.compose import composed
from diffprune.config.validation import check
from diffprune.runs.metrics import Metrics
from diffprune.runs.run import Run
from diffprune.runtime.errors import JobFailed
from diffprune.tracking.wandb_tracker import grouped
from tests.conftest import ROOT
from tests.test_cli import environment, line

SMALL = ("experiment=smoke", "until=finetune", "schedule.steps=2", "pruner=random")


def sweep(where: Path) -> list[str]:
    python, module, name, *paths = line(where)
    return [python, module, name, "-m", *paths]


class Model:
    """Stands for what a job holds."""


@pytest.mark.slow
def test_a_failed_job_leaves_nothing_but_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    held, logged = [], []

    def defect(cfg) -> None:
        model = Model()
        held.append(weakref.ref(model))
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(entry, "one", defect)
    monkeypatch.setattr(entry.log, "exception", logged.append)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(composed(("seed=3", "hydra.job.num=0"), with_hydra=True))
    with pytest.raises(JobFailed, match="seed=3: ZeroDivisionError: a defect") as failure:
        entry.in_sweep(None)
    gc.collect()
    assert logged == ["this job failed"]
    assert failure.value.__context__ is None
    assert held[0]() is None


@pytest.mark.slow
def test_a_sweep_tells_of_every_job_that_failed(tmp_path: Path) -> None:
    jobs = ["pruner=random,taylor", "pruner.calibration_batch=9999", "seed=0,1"]
    done = subprocess.run([*sweep(tmp_path), "experiment=smoke", "until=prune", "logger=none", *jobs], cwd=ROOT,
                          capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: 2 jobs of the sweep failed:" in done.stderr
    for seed in (0, 1):
        assert f"pruner=taylor pruner.calibration_batch=9999 seed={seed}: pruner.calibration" in done.stderr
    assert len(list((tmp_path / "runs").glob("*/*/prune.json"))) == 2
    for number, words in enumerate(("pruner=random seed=0", "pruner=random seed=1", "pruner=taylor seed=0"), 1):
        assert f"run {number} of 4: {words}" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_job_gives_the_same_bits_alone_and_after_others_with_a_tracked_run_each(tmp_path: Path) -> None:
    def weights(where: Path, command: list[str], *words: str) -> bytes:
        subprocess.run([*command, *SMALL, *words], cwd=ROOT, capture_output=True, env=environment(), check=True)
        (found,) = (where / "runs" / "digits").glob("*-s1-*/finetuned/unet/diffusion_pytorch_model.safetensors")
        return found.read_bytes()

    many, alone = tmp_path / "many", tmp_path / "alone"
    assert weights(many, sweep(many), "seed=0,1") == weights(alone, line(alone), "seed=1", "logger=none")
    tracked = list((many / "runs" / "wandb").glob("offline-run-*"))
    assert len({folder.name.split("-", 3)[3] for folder in tracked}) == len(tracked) == 2


@pytest.mark.parametrize(("words", "text"), [
    (["a=1,2,3", "b=range(0,4)", "-m"], " of 12"), (["a=1", "-m"], ""), (["a=interval(0,1)"], ""), (["/a/folder"], ""),
    (["a=1,2", "c=[1,2]"], " of 2"), (["-m", "--config-dir=/a/b", "seed=0,1"], " of 2")])
def test_the_jobs_of_a_sweep_are_counted_where_the_words_say_them(words: list[str], text: str) -> None:
    assert entry.of_jobs(words) == text


def test_a_search_minimises_the_distance_of_the_final_model(tmp_path: Path) -> None:
    kept = Run(next((ROOT / "experiments" / "results" / "digits").glob("*-none-s0-*")))
    assert entry.objective(kept) == Metrics.read(kept.metrics).scores["final"]["fid"] > 0
    assert entry.objective(Run(tmp_path)) is None


def test_an_agent_of_wandb_gives_options_that_compose(config) -> None:
    """The sweep in docs/experiments.md: each of its values, as `${args_no_hyphens}` hands it on."""
    text = (ROOT / "docs" / "experiments.md").read_text()
    block, = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "args_no_hyphens" in block)
    sweep = yaml.safe_load(block)
    assert sweep["command"][:3] == ["python", "-m", "diffprune"]
    fixed = [word for word in sweep["command"][3:] if "=" in word]
    for option, values in sweep["parameters"].items():
        for value in values.get("values", [values.get("min"), values.get("max")]):
            check(config(*fixed, f"{option}={value}"))
    assert sweep["metric"]["name"] in grouped({"fid": 1.0})


def test_a_sweep_ends_in_a_table_of_what_was_reached(tmp_path: Path) -> None:
    kept = sorted((ROOT / "experiments" / "results" / "digits").glob("*-none-s0-*"))[:2]
    runs = {f"seed={i}": Run(folder) for i, folder in enumerate(kept)} | {"seed=9": Run(tmp_path)}
    lines = entry.summary(runs).splitlines()
    assert len(lines) == 4      # the head, a rule, and the two runs that have metrics
    for row, run in zip(lines[2:], list(runs.values()), strict=False):
        metrics = Metrics.read(run.metrics)
        assert f"{metrics.scores['final']['fid']:.2f}" in row
        assert f"{metrics.params / 1e6:.3f}" in row
    assert entry.summary({"seed=9": Run(tmp_path)}) == ""
