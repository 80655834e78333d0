"""Imports point one way: entry, stages, ground."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "diffprune"
ENTRY = {"__main__", "pipeline", "convert", "cost"}
LIGHT = {"__init__", "__main__", "composition", "config", "errors", "files", "pipeline", "run", "track", "progress",
         "ranks", "interrupt", "journal", "rates", "rounds", "prune_report", "command"}


def imported(file: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names of everything a file imports."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def inside(names: set[str], prefix: str) -> set[str]:
    return {name for name in names if name == prefix or name.startswith(f"{prefix}.")}


def test_there_is_something_to_hold_to() -> None:
    assert {f.stem for f in files(PACKAGE / "stages")} == {"__init__", "score", "prune", "finetune", "sample", "evaluate"}


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nobody_but_the_pipeline_knows_a_stage(file: Path) -> None:
    assert not inside(imported(file), "diffprune.stages")


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_ground_does_not_know_the_entry(file: Path) -> None:
    if file.stem not in ENTRY and file.parent.name != "report":
        assert not {name for name in imported(file) if name in {"diffprune.__main__", "diffprune.pipeline"}}


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_package_does_not_know_the_experiments(file: Path) -> None:
    assert not inside(imported(file), "experiments")


@pytest.mark.parametrize("file", files(PACKAGE / "report"), ids=lambda f: f.name)
def test_the_report_imports_no_torch(file: Path) -> None:
    names = imported(file)
    assert not inside(names, "torch")
    light = {"report", "config", "run", "files", "errors", "command"}
    assert not {name for name in inside(names, "diffprune") if name.split(".")[1] not in light}


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_configuration_starts_without_torch(name: str) -> None:
    heavy = imported(PACKAGE / f"{name}.py", top_level_only=True)
    assert not {n for n in heavy if n.split(".")[0] in {"torch", "diffusers", "wandb", "torch_pruning", "matplotlib"}}


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_pickle_is_loaded(file: Path) -> None:
    forbidden = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
            pytest.fail(f"{file} loads a pickle")
