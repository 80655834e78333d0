"""What is imported when, and what is never loaded."""

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


def loaded_by(module: str) -> set[str]:
    """The top-level names of everything that importing `module` loads, as far as this project's files say."""
    reached, left = set(), {module}
    while left:
        reached |= left
        found: set[str] = set()
        for name in left:
            path = ROOT.joinpath(*name.split("."))
            file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            if file.exists():
                found |= imported(file, top_level_only=True)
        left = found - reached
    return {name.split(".")[0] for name in reached}


@pytest.mark.parametrize("module", ["diffprune.job", "diffprune.report", "diffprune.tracking.wandb_tracker",
                                    "experiments.commands", "experiments.planning.estimate", "diffprune.convert"])
def test_configuration_and_reports_start_without_torch(module: str) -> None:
    """A mistake is named, and a finished run shown, before seconds are spent on imports."""
    assert not loaded_by(module) & {"torch", "diffusers", "wandb", "torch_pruning"}


@pytest.mark.parametrize("file", files(PACKAGE), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_pickle_is_loaded(file: Path) -> None:
    forbidden = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
            pytest.fail(f"{file} loads a pickle")
