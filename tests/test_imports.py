"""Imports point one way: entry, stages, ground."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "diffprune"


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
def test_the_package_does_not_know_the_experiments(file: Path) -> None:
    assert not inside(imported(file), "experiments")


@pytest.mark.parametrize("file", files(PACKAGE / "report"), ids=lambda f: f.name)
def test_the_report_imports_no_torch(file: Path) -> None:
    names = imported(file)
    assert not inside(names, "torch")


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_pickle_is_loaded(file: Path) -> None:
    forbidden = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
            pytest.fail(f"{file} loads a pickle")
