"""`python -m experiments`, as a person and a batch system meet it."""

import json
import sys
from base64 import b64decode
from pathlib import Path

import pytest

from experiments.commands import main, parsed
from experiments.planning.cells import plan
from experiments.running import slurm

TINY = ["--seeds", "0", "pruner=random", "schedule=none"]     # two cells of table1_digits


@pytest.fixture
def words(tmp_path) -> list[str]:
    return ["table1_digits", f"paths.runs={tmp_path}/runs", *TINY]


def test_every_table_is_listed(capsys) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "table1_digits" in said
    assert "22 cells" in said


def test_options_and_words_stand_in_any_order() -> None:
    arguments = parsed(["run", "a", "--seeds", "0,1", "x=1", "--cell", "3", "y=2"])
    assert (arguments.words, arguments.seeds, arguments.cell) == (["a", "x=1", "y=2"], (0, 1), 3)
    with pytest.raises(SystemExit):
        parsed(["plan", "a", "--sedes", "0"])


def test_the_plan_for_programs_is_what_a_batch_system_needs(words, tmp_path, capsys) -> None:
    assert main(["plan", *words, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)
    assert cell["title"] == "dense, seed 0"
    assert cell["command"][:3] == [sys.executable, "-m", "experiments.running.cell"]
    assert cell["command"][3:] == cell["overrides"]
    assert cell["folder"].startswith(f"{tmp_path}/runs/digits/ddpm_digits-random-r0.3-none-s0-")
    assert cell["done"] is False
    assert set(cell["estimate"]) == {"seconds", "memory", "disk", "basis"}


@pytest.mark.slow
def test_the_plan_for_people_names_command_folder_and_estimate(words, capsys) -> None:
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "python -m diffprune dataset=digits pruner=random schedule=none seed=0" in said
    assert "MAC/s" in said
    assert "1 cells, 0 done" in said


@pytest.mark.slow
def test_status_tells_from_the_folders_alone(words, tmp_path, capsys) -> None:
    main(["plan", *words, "--json"])
    folder = json.loads(capsys.readouterr().out)[0]["folder"]
    assert main(["status", *words]) == 0
    assert "1 waiting" in capsys.readouterr().out
    from diffprune.runs.run import Run
    from diffprune.runs.status import note
    note(Run(Path(folder)), "evaluate", ValueError("the disk is full"))
    main(["status", *words])
    assert "failed    dense, seed 0: ValueError: the disk is full" in capsys.readouterr().out
    main(["status", *words, "--json"])
    assert json.loads(capsys.readouterr().out)[0]["state"] == "failed"
    main(["retry", *words, "--dry-run"])
    assert "pruner=random" in capsys.readouterr().out


def test_a_finished_table_asks_for_nothing_more(tmp_path) -> None:
    """Not even for where the data are, which its cells would need to be done again."""
    words = ["table2_lsun_church", "--seeds", "0", f"paths.runs={tmp_path}/runs"]
    for cell in plan(["table2_lsun_church"], words[3:], (0,)).cells:
        cell.folder.mkdir(parents=True)
        cell.run.metrics.write_text("{}")
    assert main(["run", *words]) == main(["run", *words, "launcher=slurm"]) == 0


def test_nothing_that_failed_means_nothing_to_retry(words, capsys) -> None:
    assert main(["retry", *words, "--dry-run"]) == 0
    assert capsys.readouterr().out == ""


def test_slurm_is_handed_the_cells_and_what_sbatch_is_told(words, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(slurm, "submit", lambda *arguments: given.append(arguments))
    options = ["--mail-type=FAIL", "--cap", "3", "--time=4:00:00", "--dry-run"]
    assert main(["run", *words, "launcher=slurm", *options]) == 0
    ((cells, everything, name, wishes),) = given
    assert [cell.name for cell in cells] == [cell.name for cell in everything] == ["dense, seed 0"]
    assert name == "table1_digits"
    assert wishes == slurm.Wishes(3, 1, {"mail_type": "FAIL", "time": "4:00:00"}, True)


@pytest.mark.parametrize(("arguments", "words"), [
    (["plan", "table9"], "table9"), (["plan", "seed=0"], "no table is named"),
    (["run", "table1_digits", "--seeds", "0", "--time=1:00"], "--time=1:00: cells are done here"),
    (["run", "table1_digits", "--seeds", "0", "--cap", "2"], "--cap: cells are done here"),
    (["run", "table1_digits", "launcher=slurm", "hydra.launcher.partition=gpu", "launcher.wait=true"],
     "hydra.launcher.partition=gpu launcher.wait=true: cells are"),
    (["run", "table1_digits", "launcher=slurm", "--workers", "2"], "--workers: cells are"),
    (["run", "table2_lsun_church"], "dataset.path=…"), (["run", "table1_digits", "--seeds", "0", "--cell", "99"], "0 to 7")])
def test_a_mistake_is_one_sentence(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert str(ended.value).startswith("error: ")
    assert words in str(ended.value)


@pytest.mark.slow
def test_a_table_is_a_dashboard_of_its_runs_beside_the_dense_one(tmp_path, capsys, monkeypatch) -> None:
    from experiments.reporting import dashboard
    monkeypatch.setattr(dashboard, "logged_in", lambda: False)
    file = tmp_path / "spec.json"
    assert main(["dashboard", "table1_digits", "--out", str(file), f"paths.runs={tmp_path}/runs"]) == 0
    assert "nobody is logged in" in capsys.readouterr().out
    runs = json.loads(file.read_text())["spec"]["section"]["runSets"][0]
    (selected,) = runs["filters"]["filters"]
    assert len(selected["value"]) == 22
    assert "ddpm_digits-none-none-s0" in b64decode(runs["baselineRunId"]).decode()
