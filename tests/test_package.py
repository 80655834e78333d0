"""What is installed: the wheel works from any folder, and a missing extra is one sentence."""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

import diffprune
from diffprune.runtime.command_line import EXTRAS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel in it, which sees the libraries of this one but not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)], check=True)
    venv.create(folder / "venv")
    paths = sysconfig.get_paths(vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    subprocess.run([*pip, "--python", str(folder / "venv/bin/python"), "install", "--no-deps",
                    str(next(folder.glob("*.whl")))], check=True)
    Path(paths["purelib"], "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


def run(folder: Path, *command: str | Path) -> str:
    """What the command prints, called in `folder` without any of this checkout's paths."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_shows_its_configuration_from_any_folder(installed: Path, tmp_path: Path) -> None:
    assert "pruner: default, diff_pruning" in run(tmp_path, installed / "diffprune", "--help")


@pytest.mark.slow
def test_the_wheel_prunes_the_shipped_model_in_any_folder(installed: Path, tmp_path: Path) -> None:
    assert "pruned 0.70 M to 0.34 M parameters" in run(
        tmp_path, installed / "diffprune", "experiment=smoke", "until=prune", "logger=none")
    assert [path.name for path in (tmp_path / "runs" / "digits").iterdir()]


@pytest.mark.slow
def test_the_wheel_loads_the_shipped_model(installed: Path, tmp_path: Path) -> None:
    code = ("import diffprune; pipeline = diffprune.load_pipeline('shipped:ddpm_digits'); "
            "print(diffprune.__file__, type(pipeline).__name__, pipeline.unet.config.sample_size)")
    said = run(tmp_path, installed / "python", "-c", code)
    assert "DDIMPipeline 8" in said
    assert str(installed.parent) in said


def test_the_version_has_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", diffprune.__version__)
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


def test_the_public_names_are_listed_before_they_are_imported() -> None:
    assert {"load_pipeline", "prune", "__version__"} <= set(dir(diffprune))
    assert set(diffprune.__all__) <= set(dir(diffprune))


def test_every_extra_is_named_when_one_of_its_libraries_is_missing() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    for module, extra in EXTRAS.items():
        assert {name.lower() for name in distributions.get(module, [module])} & names_of(extras[extra]), module
    named = {extra for extra in extras if extra not in ("all", "dev")}
    assert set(EXTRAS.values()) == named


def test_the_lock_holds_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = names_of(line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "all"}
    assert names_of([*project["dependencies"], *chain(*extras.values())]) <= locked


def names_of(requirements: Iterable[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}


@pytest.mark.slow
def test_the_documentation_is_made_without_a_dead_link(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
                          cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    reference = (tmp_path / "reference" / "index.html").read_text()
    assert "Prunes, in place, the denoiser" in reference


def test_every_page_is_in_the_index_of_the_documentation() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == {*re.findall(r"\]\((\w+\.md)\)", index), "index.md"}
