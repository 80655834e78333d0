"""What is submitted to Slurm, without one: `sbatch` and its like are stand-ins that write down what they were given."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import sbatch_options
from experiments.__main__ import main as experiments
from experiments.running import slurm
from hydra_plugins import diffprune_slurm as launcher
from tests.conftest import ROOT

Site = Callable[[str], None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Writes a site file and makes it the one that counts."""
    def written(text: str) -> None:
        (tmp_path / "site.sh").write_text(text)
        monkeypatch.setenv("DIFFPRUNE_SITE", str(tmp_path / "site.sh"))
    written("sbatch_options=(--partition=gpu '--comment=a b')\n")
    return written


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site) -> Callable[[], list[list[str]]]:
    """A Slurm that takes five tasks an array and runs nothing; returns what `sbatch` was asked, call by call."""
    (tmp_path / "bin").mkdir()
    for name, body in (("sbatch", f'printf "%s\\0" "$@" >> {tmp_path}/asked; echo >> {tmp_path}/asked; '
                                  f'echo "$(wc -l < {tmp_path}/asked);cluster"'), ("scontrol", "echo 'MaxArraySize = 5'"),
                       ("squeue", f"cat {tmp_path}/queue 2> /dev/null")):
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return lambda: [line.split("\0")[:-1] for line in (tmp_path / "asked").read_text().splitlines()]


def cells(count: int) -> list[dict]:
    return [{"title": f"cell {i}", "command": ["python", "-c", f"print({i})"], "done": i == 0} for i in range(count)]


def test_only_missing_cells_are_submitted_as_they_are_now(sbatch: Callable, tmp_path: Path) -> None:
    assert slurm.submit(cells(4), "table 1", logs=tmp_path / "logs") == ["1"]
    asked, = sbatch()
    plan = json.loads(Path(asked[-2]).read_text())
    assert [cell["title"] for cell in plan] == ["cell 1", "cell 2", "cell 3"]
    assert plan[0]["command"] == [sys.executable, "-c", "print(1)"]
    assert {"--array=0-2", "--partition=gpu", "--comment=a b", "--job-name=table 1"} < set(asked)
    assert asked[-3:] == ["slurm/array.sh", str(next((tmp_path / "logs" / "table-1").glob("*.json"))), "0"]


def test_cells_in_the_queue_are_not_submitted_again(sbatch: Callable, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """squeue tells a job's script with its arguments; here the second array of three, one task of which waits, one runs."""
    slurm.submit(cells(14), "many", logs=tmp_path / "the logs")
    assert capfd.readouterr().err == "submitted 13 cells in 3 array jobs: 1 2 3\n"
    plan, = (tmp_path / "the logs").rglob("*.json")
    script = f"{ROOT}/slurm/array.sh {plan} 5"
    (tmp_path / "queue").write_text(f"2_3 {script}\n2_4 {script}\n7 /home/else.sh\n8_0 {ROOT}/slurm/array.sh gone.json 0\n")
    assert slurm.submit(cells(14), "more", logs=tmp_path / "logs") == ["4", "5", "6"]
    assert capfd.readouterr().err == "submitted 11 cells in 3 array jobs: 4 5 6, 2 are in the queue already\n"
    again, = (tmp_path / "logs").rglob("*.json")
    assert {f"cell {i}" for i in range(1, 14)} - {cell["title"] for cell in json.loads(again.read_text())} == {
        "cell 9", "cell 10"}


@pytest.mark.parametrize("broken", ["exit 1", None])
def test_a_queue_that_does_not_answer_holds_nothing_up(sbatch: Callable, tmp_path: Path, broken: str | None) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f"#!/bin/bash\n{broken}\n") if broken else squeue.chmod(0o644)
    assert slurm.submit(cells(2), "few", logs=tmp_path / "logs") == ["1"]


def test_a_finished_plan_submits_nothing(sbatch: Callable, tmp_path: Path) -> None:
    assert slurm.submit(cells(1), "done", logs=tmp_path / "logs") == []
    assert not (tmp_path / "logs").exists()


def test_as_many_arrays_as_the_largest_one_asks_for_and_a_cap_holds_for_all(sbatch: Callable, tmp_path: Path) -> None:
    slurm.submit(cells(13), "many", cap=2, options=("--time=5",), logs=tmp_path / "logs")
    asked = sbatch()
    assert [next(word for word in words if "--array" in word) for words in asked] == [
        "--array=0-4%2", "--array=0-4%2", "--array=0-1%2"]
    assert [words[-1] for words in asked] == ["0", "5", "10"]
    assert [[word for word in words if "--dependency" in word] for words in asked] == [
        [], ["--dependency=afterany:1"], ["--dependency=afterany:2"]]
    assert all(words.index("--time=5") > words.index("--partition=gpu") for words in asked)


def test_a_dry_run_prints_what_sbatch_would_be_asked_and_leaves_nothing(sbatch: Callable, tmp_path: Path,
                                                                       capfd: pytest.CaptureFixture) -> None:
    slurm.submit(cells(4), "dry", dry_run=True, logs=tmp_path / "logs")
    printed = capfd.readouterr().out
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "asked").exists()
    slurm.submit(cells(4), "dry", logs=tmp_path / "logs")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {printed}"], capture_output=True, text=True, check=True).stdout
    assert words.split("\0")[:-1] == ["sbatch", *sbatch()[0]]


def test_ten_thousand_cells_are_ten_submissions() -> None:
    parts = list(slurm.chunks(10_000, slurm.LARGEST_ARRAY))
    assert len(parts) == 10
    assert sum(last - first + 1 for first, last in parts) == 10_000


def test_a_refusal_keeps_its_words_and_status(sbatch: Callable, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: not for you' >&2; exit 7\n")
    (tmp_path / "plan.json").write_text(json.dumps(cells(2)))
    with pytest.raises(SystemExit) as stop:
        slurm.main([str(tmp_path / "plan.json"), f"--logs={tmp_path}/logs"])
    assert stop.value.code == 7
    assert capfd.readouterr().err == "sbatch: error: not for you\n"


@pytest.mark.parametrize(("text", "words"), [
    (None, "does not exist"), ("{", "is no plan"), ('[{"title": "a"}]', "is no plan"),
    ('[{"command": "ls"}]', "is no plan")])
def test_a_plan_that_is_none_is_one_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SystemExit, match=words):
        slurm.main([str(tmp_path / "plan.json")])


def test_a_cap_below_one_is_refused(sbatch: Callable, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(cells(2)))
    table = ["run", "table1_digits", "--seeds", "0", f"paths.runs={tmp_path}/runs", "launcher=slurm"]
    for front, words in ((slurm.main, [str(tmp_path / "plan.json")]), (experiments, table)):
        with pytest.raises(SystemExit, match="--cap 0"):
            front([*words, "--cap=0"])
    assert not (tmp_path / "asked").exists()


def test_a_tables_cells_are_submitted_with_their_output_beside_their_runs(sbatch: Callable, tmp_path: Path,
                                                                         capfd: pytest.CaptureFixture) -> None:
    words = ["table1_digits", "--seeds", "0", "pruner=random", f"paths.runs={tmp_path}/runs", "launcher=slurm"]
    assert experiments(["run", *words, "--time=5"]) == 0
    assert capfd.readouterr().err == "submitted 2 cells in 1 array jobs: 1\n"
    asked, = sbatch()
    assert "--time=5" in asked
    assert f"--output={tmp_path}/runs/.slurm/table1_digits/%A_%a.log" in asked


def test_a_task_is_put_back_under_its_own_number(tmp_path: Path, site: Site) -> None:
    """Slurm gives the last task of an array the array's own number as SLURM_JOB_ID, which addresses all of them."""
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked; echo RUNNING\n')
        (tmp_path / name).chmod(0o755)

    def asked(**job: str) -> list[str]:
        (tmp_path / "asked").unlink(missing_ok=True)
        subprocess.run(["bash", "-c", "source slurm/resume.sh; requeue_if_asked 75"], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL, env=os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        return (tmp_path / "asked").read_text().splitlines()

    array = asked(SLURM_JOB_ID="7", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="2")
    assert array == ["--noheader --jobs=7_2 --format=%T", "requeue 7_2"]
    assert asked(SLURM_JOB_ID="8")[1] == "requeue 8"


def test_a_cell_becomes_its_command(tmp_path: Path) -> None:
    plan = [{"command": ["false"]}, {"title": "b", "command": ["bash", "-c", "exit 4"]}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run([sys.executable, ROOT / "slurm" / "cell.py", tmp_path / "plan.json", "1"], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "b\n")


def test_the_site_file_that_is_shipped_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFPRUNE_SITE", raising=False)
    assert sbatch_options() == {}


@pytest.mark.parametrize(("text", "words"), [("nonsense (", "site.sh does not do"), ("sbatch_options=(-p gpu)", "long form"),
                                             ("exit 3", "does not do")])
def test_a_site_file_that_does_not_do_is_one_sentence(site: Site, text: str, words: str) -> None:
    site(text)
    with pytest.raises(UserError, match=words):
        sbatch_options()


def prepared(*overrides: str) -> launcher.SlurmSweep:
    sweep = launcher.SlurmSweep(partition=None, cpus_per_task=4, timeout_min=60, signal_delay_s=120, submitit_folder="x",
                                max_num_timeout=3, setup=["module load x"], additional_parameters={"nice": 5})
    sweep.config = OmegaConf.create({"hydra": {"overrides": {"hydra": list(overrides)}}})
    return sweep


def test_a_sweep_asks_for_the_site_and_the_command_line_goes_before_it(site: Site) -> None:
    site("sbatch_options=(--partition=gpu --time=7 --exclusive)")
    told = prepared("hydra.launcher.timeout_min=60").parameters()
    assert told["slurm_additional_parameters"] == {"requeue": True, "signal": "USR1@120", "partition": "gpu",
                                                   "exclusive": True, "nice": 5}
    assert told["timeout_min"] == 60
    assert told["slurm_setup"][-1] == "module load x"
    assert prepared().parameters()["slurm_additional_parameters"]["time"] == "7"


def test_a_job_that_left_without_a_result_has_failed_and_the_others_have_not(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def job(number: str, there: bool) -> SimpleNamespace:
        file = tmp_path / number
        if there:
            file.touch()
        done = JobReturn(status=JobStatus.COMPLETED)
        return SimpleNamespace(job_id=number, paths=SimpleNamespace(result_pickle=file, folder=tmp_path),
                               task=lambda _: SimpleNamespace(result=lambda: done))
    monkeypatch.setattr(launcher, "queue", dict)
    monkeypatch.setattr(launcher, "GRACE", 0.0)
    monkeypatch.setattr(launcher, "LOOK", 0.0)
    good, bad = launcher.awaited([job("1_0", True), job("1_1", False)])
    assert good.status == JobStatus.COMPLETED
    with pytest.raises(UserError, match="job 1_1 ended without a result"):
        _ = bad.return_value
