"""A job that was submitted with other code does not run, and says so where one looks."""

from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from diffprune.runtime.errors import JobFailed, UserError
from diffprune.runtime.source import SUBMITTED, check_source, source_key
from experiments.planning.cells import lone
from experiments.running.cell import main as cell
from hydra_plugins import diffprune_slurm as launcher


def test_the_key_changes_with_every_module_and_option_and_with_nothing_else(tmp_path: Path) -> None:
    package, conf = tmp_path / "package", tmp_path / "conf"
    for file in (package / "a" / "b.py", conf / "c.yaml"):
        file.parent.mkdir(parents=True)
        file.write_text("x = 1\n")
    keys = [source_key(package, conf)]
    (package / "notes.txt").write_text("nothing of it runs")
    assert source_key(package, conf) == keys[0]
    for change in (lambda: (package / "a" / "b.py").write_text("x = 2\n"), lambda: (conf / "c.yaml").write_text("x = 2\n"),
                   lambda: (package / "a" / "b.py").rename(package / "b.py")):
        change()
        keys.append(source_key(package, conf))
    assert len(set(keys)) == 4


def test_only_a_job_that_was_submitted_with_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_source()
    monkeypatch.setenv(SUBMITTED, source_key())
    check_source()
    monkeypatch.setenv(SUBMITTED, "other")
    with pytest.raises(UserError, match="has changed since this job was submitted: submit the run again"):
        check_source()


def test_a_cell_records_the_refusal_in_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, "other")
    words = [f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache"]
    with pytest.raises(SystemExit, match="has changed since this job was submitted"):
        cell(words)
    status = lone(words).status
    assert status.state == "failed"
    assert "has changed since" in status.reason


@pytest.mark.skipif(launcher.SlurmLauncher is launcher.Launcher, reason="submitit is not installed")
def test_a_job_of_a_sweep_ends_with_status_1_and_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[JobReturn] = []
    monkeypatch.setenv(SUBMITTED, "other")
    monkeypatch.setattr(launcher, "keep", kept.append)
    with pytest.raises(SystemExit) as ended:
        launcher.SlurmSweep()(["seed=1"], "hydra.sweep.dir", 0, "0", {})
    assert ended.value.code == 1
    assert kept[0].status == JobStatus.FAILED
    with pytest.raises(JobFailed, match=r"seed=1: the code in .* has changed since"):
        _ = kept[0].return_value
