"""The README is true: its tables are those of the kept results, its commands compose, its files exist."""

import io
import re
import shlex
from itertools import product
from shutil import copyfile, copytree, ignore_patterns, rmtree

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from diffprune.config.compose import composed, register
from diffprune.config.naming import run_name
from diffprune.config.validation import check
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus, put
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json, write_json
from experiments.planning.cells import plan
from experiments.upkeep import readme
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
LINES = [line.split("#")[0].strip() for block in re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, re.DOTALL)
         for line in block.splitlines()]
COMMANDS = sorted({line for line in LINES if re.match(r"python -m diffprune( |$)", line) and "--help" not in line})


@pytest.mark.slow
def test_tables_and_figures_are_those_of_the_kept_results() -> None:
    made = readme.made()
    assert {path.name for path in made} == {"README.md", "method.md", "digits_samples.png", *(
        f"{table}.{end}" for table in readme.TABLES for end in ("md", "csv", "tex")), *(
        f"{table}.{end}" for table in ("table1_digits", "healing_curve_digits", "pareto_digits") for end in ("svg", "png"))}
    for path, content in made.items():
        assert pixels(content) == pixels(path.read_bytes()) if path.suffix == ".png" else content == path.read_bytes(), path


def pixels(content: bytes) -> tuple:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.mode, picture.size, picture.tobytes()


@pytest.mark.slow
def test_one_folder_of_runs_makes_all_that_is_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "OF_METHOD", (readme.METHOD,))      # the test above makes every table
    monkeypatch.setattr(readme, "TABLES", (readme.CRITERIA, readme.METHOD))
    runs, results, text = tmp_path / "runs" / "digits", tmp_path / "results", tmp_path / "README.md"
    copytree(readme.RESULTS / "digits", runs, ignore=ignore_patterns("checksums.sha256"))
    cells = plan(readme.TABLES).cells
    dense, count = next(cell for cell in cells if cell.is_dense), len(cells)
    rmtree(runs / dense.run.name, ignore_errors=True)
    with pytest.raises(UserError, match=rf"lacks 1 of the {count} finished runs.*dense, seed 0"):
        readme.keep(tmp_path / "runs", results)
    assert not results.exists()

    metrics = read_json(next(runs.glob("*-magnitude-*s0-*/metrics.json")))
    write_json(runs / dense.run.name / "metrics.json", metrics | {"pruner": "none", "fid": metrics["fid_dense"]})
    cfg = composed(dense.overrides)
    cfg.paths.runs = cfg.paths.cache = "/a/private/place"
    Run(runs / dense.run.name).config.parent.mkdir()
    OmegaConf.save(cfg, Run(runs / dense.run.name).config, resolve=True)
    own = {cell.run.name for cell in plan([readme.CRITERIA]).cells}
    for i, folder in enumerate(sorted(runs.iterdir(), key=lambda folder: (folder.name not in own, folder.name))):
        put(Run(folder), RunStatus("done", host="somebodys-host", pid=987654320 + i % 2, since=100.0 + i, ended=200.0 + i))
    copyfile(ROOT / "README.md", text)
    assert readme.keep(tmp_path / "runs", results) == count
    page = tmp_path / "method.md"
    copyfile(readme.PAGE, page)
    made = readme.made(results, text, page)
    readme.write(made)
    table = (results / "table1_digits.md").read_text()
    assert "`python -m experiments run table1_digits`" in table
    assert "Its 22 runs took 2:01, up to 22 at once." in table
    assert "| dense | 0.701" in table
    kept = "".join(path.read_text() for path in (results / "digits").rglob("*") if path.suffix in (".json", ".yaml"))
    assert not [word for word in ("somebodys-host", "private", "98765432") if word in kept]


def test_it_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) < 180
    assert max(len(line) for line in TEXT.splitlines() if not line.startswith("|")) <= 120
    assert max(line.count("|") for line in TEXT.splitlines() if line.startswith("|")) <= 7      # six columns


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str, tmp_path) -> None:
    overrides = [word for word in shlex.split(command)[3:] if word != "-m"]
    choices = [[f"{key}={value}" for value in values.split(",")] if re.search(r"[\w.]=[^\[{(]*,", f"{key}={values}") else
               [f"{key}={values}"] for key, _, values in (override.partition("=") for override in overrides)]
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for chosen in product(*choices):
            cfg = compose("config", overrides=[c.replace("/data/", f"{tmp_path}/") for c in chosen])
            if "/data/" not in command:
                check(cfg)
            assert run_name(cfg)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:conf|diffprune|experiments|tests|slurm)/[\w/.]*)`", TEXT))))
def test_every_path_of_the_map_exists(path: str) -> None:
    assert (ROOT / path).exists()
