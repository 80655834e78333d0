"""The README is true: its tables are those of the kept results, its commands compose, its files exist."""

import re
import shlex
from itertools import product

import pytest
from hydra import compose, initialize_config_dir

from diffprune.composition import check, register
from diffprune.config import run_name
from experiments import readme
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
LINES = [line.split("#")[0].strip() for block in re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, re.DOTALL)
         for line in block.splitlines()]
COMMANDS = sorted({line for line in LINES if re.match(r"python -m diffprune( |$)", line) and "--help" not in line})


def test_the_tables_are_those_of_the_kept_results() -> None:
    assert readme.rendered(TEXT) == TEXT


def test_it_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) < 150


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
