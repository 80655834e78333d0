"""What is submitted to Slurm, without one: `sbatch` and its like are stand-ins that keep what they were given."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from diffprune.runtime import slurm, slurm_queue
from diffprune.runtime.errors import UserError
from experiments.commands import main as experiments
from experiments.planning.cells import lone
from experiments.running.slurm import submission
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
    """A Slurm that takes five tasks an array and runs nothing; returns the options of each batch script it was given."""
    (tmp_path / "bin").mkdir()
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    number = f'"$(ls {scripts} | wc -l)"'
    for name, body in (("sbatch", f'cp "$1" {scripts}/{number}; echo "Submitted batch job "{number}'), ("srun", ""),
                       ("scontrol", "echo 'MaxArraySize = 5'"), ("squeue", f"cat {tmp_path}/queue 2> /dev/null")):
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return lambda: [[line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
                    for script in sorted(scripts.iterdir())]


def submit(folder: Path, count: int, name: str = "many", cap: int | None = None, words: Sequence[str] = (),
           dry_run: bool = False) -> list[Any]:
    """Submits so many commands."""
    commands = [["echo", str(i)] for i in range(count)]
    jobs = submission(folder, name, cap, slurm.sbatch_options(words, "the test"))
    return jobs.submit(os.execvp, [(words[0], words) for words in commands], [[f"cell {i}"] for i in range(count)], dry_run)


def option(scripts: list[list[str]], name: str) -> list[str]:
    return [next((word for word in words if word.startswith(f"--{name}=")), "") for words in scripts]


def test_the_command_line_goes_before_the_site_and_the_site_before_the_defaults(sbatch: Callable, tmp_path: Path, site: Site
                                                                                ) -> None:
    site("sbatch_options=(--partition=gpu '--comment=a b' --cpus-per-task=8 --time=7)\n")
    submit(tmp_path / "logs", 3, "table 1", words=["--time=4:00:00", "--exclusive"])
    asked, = sbatch()
    assert {"--array=0-2%3", "--partition=gpu", "--comment='a b'", "--time=4:00:00", "--exclusive", "--requeue",
            "--cpus-per-task=8", "--nodes=1", "--signal=USR1@120", "--open-mode=append"} < set(asked)
    assert len(asked) == len({word.partition("=")[0] for word in asked})
    assert option([asked], "job-name")[0].startswith("--job-name=table-1-")


def in_queue(tmp_path: Path, *jobs: tuple[str, str]) -> None:
    """What squeue says: these jobs, number and name, wait."""
    (tmp_path / "queue").write_text("".join(f"{number}|PENDING|Priority|1:00|{name}\n" for number, name in jobs))


def names(scripts: list[list[str]]) -> list[str]:
    return [word.removeprefix("--job-name=") for word in option(scripts, "job-name")]


def test_what_is_in_the_queue_is_known_by_the_jobs_name(sbatch: Callable, tmp_path: Path) -> None:
    """Three arrays and a job alone, of two runs: of the second array one task waits, one runs."""
    submit(tmp_path / "logs", 13)
    alone = submission(tmp_path / "logs", "one", None, {})
    alone.submit(os.execvp, [("true", ["true"])], [["alone", "with it"]])
    name = names(sbatch())
    in_queue(tmp_path, ("2_3", name[1]), ("2_4", name[1]), ("7", "else|where"), ("8_0", "many-gone"), ("4", name[3]))
    assert slurm_queue.queued(tmp_path / "logs") == {"cell 8", "cell 9", "alone", "with it"}
    assert slurm_queue.queued(tmp_path / "elsewhere") == set()
    jobs = slurm_queue.jobs(tmp_path / "logs")
    assert jobs["alone"].number == "4"
    assert jobs["cell 8"].log == tmp_path / "logs" / "2_3_0_log.out"
    assert jobs["cell 8"].line == ("PENDING", "Priority", "1:00", name[1])
    assert (jobs["cell 0"].number, jobs["cell 0"].queued) == ("1_0", False)


def test_what_was_submitted_twice_has_the_later_job_and_what_an_earlier_version_wrote_is_read(sbatch: Callable,
                                                                                            tmp_path: Path) -> None:
    submit(tmp_path / "logs", 2, "first")
    submit(tmp_path / "logs", 2, "second")
    in_queue(tmp_path)
    assert [job.number for job in slurm_queue.jobs(tmp_path / "logs").values()] == ["2_0", "2_1"]
    former, *_ = names(sbatch())
    (tmp_path / "logs" / f"{former}.json").write_text('["cell 0", "cell 1"]')
    in_queue(tmp_path, ("1_1", former))
    assert slurm_queue.queued(tmp_path / "logs") == {"cell 1"}


@pytest.mark.parametrize("broken", ["exit 1", None])
def test_a_queue_that_does_not_answer_holds_nothing_up(sbatch: Callable, tmp_path: Path, broken: str | None) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f"#!/bin/bash\n{broken}\n") if broken else squeue.chmod(0o644)
    submit(tmp_path / "logs", 2)
    assert slurm_queue.queued(tmp_path / "logs") == set()


def test_as_many_arrays_as_the_largest_one_asks_for_and_a_cap_holds_for_all(sbatch: Callable, tmp_path: Path) -> None:
    jobs = submit(tmp_path / "logs", 12, cap=2)
    assert [job.job_id for job in jobs] == [*(f"1_{i}" for i in range(5)), *(f"2_{i}" for i in range(5)), "3_0", "3_1"]
    asked = sbatch()
    assert option(asked, "array") == ["--array=0-4%2", "--array=0-4%2", "--array=0-1%2"]
    assert option(asked, "dependency") == ["", "--dependency=afterany:1", "--dependency=afterany:2"]
    assert option(asked, "job-name")[0] != option(asked, "job-name")[1]


def test_a_dry_run_prints_the_batch_script_and_leaves_nothing(sbatch: Callable, tmp_path: Path,
                                                             capfd: pytest.CaptureFixture) -> None:
    assert submit(tmp_path / "logs", 4, dry_run=True) == []
    printed = capfd.readouterr().out
    assert not (tmp_path / "logs").exists()
    assert not sbatch()
    submit(tmp_path / "logs", 4)
    assert next((tmp_path / "scripts").iterdir()).read_text() in printed


def test_a_refusal_keeps_its_words_and_status(sbatch: Callable, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: not for you' >&2; exit 7\n")
    with pytest.raises(SystemExit) as stop:
        submit(tmp_path / "logs", 2)
    assert stop.value.code == 7
    assert capfd.readouterr().err == "sbatch: error: not for you\n"


def test_without_slurm_it_is_one_sentence(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_: None)
    with pytest.raises(UserError, match="not on this machine"):
        submit(tmp_path / "logs", 2)


def test_a_dry_run_needs_no_slurm(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("shutil.which", lambda *_: None)
    submit(tmp_path / "logs", 2, words=["--mail-type=FAIL"], dry_run=True)
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2" in said
    assert "#SBATCH --mail-type=FAIL" in said


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), [("--cap=0", "--cap 0"), ("-pgpu", "long form")])
def test_a_mistake_in_the_options_is_one_sentence(sbatch: Callable, tmp_path: Path, words: str, message: str) -> None:
    table = ["run", "table1_digits", "--seeds", "0", f"paths.runs={tmp_path}/runs", "launcher=slurm"]
    with pytest.raises(SystemExit, match=message):
        experiments([*table, words])
    assert not sbatch()


@pytest.mark.slow
def test_a_tables_cells_are_submitted_with_their_output_beside_their_runs(sbatch: Callable, tmp_path: Path,
                                                                         capfd: pytest.CaptureFixture) -> None:
    words = ["table1_digits", "--seeds", "0", f"paths.runs={tmp_path}/runs", "launcher=slurm"]
    assert experiments(["run", *words, "pruner=random", "--time=5"]) == 0
    assert capfd.readouterr().out == (f"submitted 2 jobs as 1: their output is in {tmp_path}/runs/.slurm/1_*\n"
                                      "submitted 2 cells\n")
    asked, = sbatch()
    assert {"--time=5", f"--output={tmp_path}/runs/.slurm/%A_%a_0_log.out"} < set(asked)
    name, = names([asked])
    in_queue(tmp_path, ("1_0", name), ("1_1", name))
    assert experiments(["run", *words, "pruner=random"]) == 0
    assert capfd.readouterr().out == "submitted 0 cells, 2 are in the queue already\n"
    assert experiments(["run", *words, "pruner=random", "until=score", "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "until=score" in out.splitlines()[-2]
    assert out.endswith("would submit 2 cells\n")
    assert len(sbatch()) == 1


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


def test_the_site_file_that_is_shipped_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFPRUNE_SITE", raising=False)
    assert slurm.site_options() == {}


@pytest.mark.parametrize(("text", "words"), [("nonsense (", "site.sh fails"), ("sbatch_options=(-p gpu)", "long form"),
                                             ("exit 3", "fails")])
def test_a_site_file_that_does_not_do_is_one_sentence(site: Site, text: str, words: str) -> None:
    site(text)
    with pytest.raises(UserError, match=words):
        slurm.site_options()


def prepared(*overrides: str) -> launcher.SlurmSweep:
    sweep = launcher.SlurmSweep(partition=None, cpus_per_task=4, timeout_min=60, signal_delay_s=120, submitit_folder="x",
                                max_num_timeout=3, setup=["module load x"], additional_parameters={"nice": 5})
    sweep.config = OmegaConf.create({"hydra": {"overrides": {"hydra": list(overrides)}},
                                     "launcher": {"sbatch": "--mail-type=FAIL --comment='a b'"}})
    return sweep


def test_a_sweep_asks_for_the_site_and_the_command_line_goes_before_it(site: Site) -> None:
    site("sbatch_options=(--partition=gpu --time=7 --exclusive)")
    given = prepared("hydra.launcher.timeout_min=60").submission().options
    assert given == {"partition": "gpu", "exclusive": True, "nice": 5, "mail_type": "FAIL", "comment": "a b"}
    assert prepared().submission().options["time"] == "7"


@pytest.mark.slow
def test_a_sweep_of_finished_runs_submits_nothing_and_shows_what_was_reached(sbatch: Callable, tmp_path: Path) -> None:
    kept = sorted((ROOT / "experiments" / "results" / "digits").glob("*-none-s0-*"))[0]
    words = ["launcher=slurm", "pruner=random,magnitude", "logger=none", f"paths.runs={tmp_path}/runs"]
    for pruner in ("random", "magnitude"):
        folder = lone([f"pruner={pruner}", "logger=none", f"paths.runs={tmp_path}/runs"]).folder
        shutil.copytree(kept, folder)
        (folder / "status.json").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "diffprune", "-m", *words], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "leaves out 2 done of 2 runs" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("pruner=")] == [
        "pruner=random", "pruner=magnitude"]
    assert not sbatch()


def test_a_job_that_left_without_a_result_has_failed_and_the_others_have_not(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def job(number: str, there: bool) -> SimpleNamespace:
        file = tmp_path / number
        if there:
            file.touch()
        done = JobReturn(status=JobStatus.COMPLETED)
        return SimpleNamespace(job_id=number, paths=SimpleNamespace(result_pickle=file, folder=tmp_path),
                               task=lambda _: SimpleNamespace(result=lambda: done))
    monkeypatch.setattr(slurm_queue, "queue", dict)
    monkeypatch.setattr(launcher, "GRACE", 0.0)
    monkeypatch.setattr(launcher, "POLL", 0.0)
    good, bad = launcher.results([job("1_0", True), job("1_1", False)])
    assert good.status == JobStatus.COMPLETED
    with pytest.raises(UserError, match="job 1_1 ended without a result"):
        _ = bad.return_value
