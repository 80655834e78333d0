"""Imports point one way: each folder imports only from folders below it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From top to bottom. A folder imports from the lines below its own; folders of one line do not know each other. Commands
# stand above everything: the modules beside the folders, and what `python -m diffprune.<folder>` runs.
ORDER = (
    ("__main__", "cost", "convert", "export", "measure", "bench", "report.__main__", "sampling.__main__", "bench.__main__"),
    ("job",),
    ("pipeline",),
    ("stages", "api"),
    ("training",),
    ("pruning",),
    ("sampling",),
    ("evaluation",),
    ("tracking",),
    ("models",),
    ("data", "report"),
    ("runs",),
    ("config",),
    ("runtime", "diffusion"),
)
LEVELS = {folder: level for level, line in enumerate(ORDER) for folder in line}


def folder_of(name: str) -> str:
    """`runtime` of `diffprune.runtime.files`, `report.__main__` of `diffprune.report.__main__`."""
    parts = name.split(".")[1:]
    return ".".join(parts[:2]) if parts[1:2] == ["__main__"] else parts[0] if parts else ""


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of all modules that a file imports, at its top, in functions, or by string."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names.add(f"by string: {ast.unparse(node.args[0])}")
    return names


def against_the_direction(module: str, source: str) -> list[str]:
    """What `source`, the text of `module`, imports from a folder that is not below its own."""
    own, wrong = folder_of(module), []
    for name in sorted(imports(ast.parse(source))):
        if name.startswith(("experiments", "by string: ", "tests")):
            wrong.append(name)
        if not name.startswith("diffprune."):
            continue
        other = folder_of(name)
        if other in LEVELS and other != own.partition(".")[0] and other != own and LEVELS[other] <= LEVELS[own]:
            wrong.append(name)
    return wrong


def modules() -> list[tuple[str, Path]]:
    files = sorted((ROOT / "diffprune").rglob("*.py"))
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts), file) for file in files]


def test_every_folder_has_its_place() -> None:
    assert {folder_of(module) for module, _ in modules()} - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize(("module", "file"), modules(), ids=[module for module, _ in modules()])
def test_a_module_imports_only_from_below(module: str, file: Path) -> None:
    if module != "diffprune.__init__":      # it offers the two public functions, by their names
        assert against_the_direction(module, file.read_text()) == []


@pytest.mark.parametrize(("module", "source"), [
    ("diffprune.models.dense", "from diffprune.convert import main"),
    ("diffprune.models.dense", "def load():\n    from diffprune.stages.score import stage"),
    ("diffprune.runtime.files", "import importlib\nimportlib.import_module('diffprune.cost')"),
    ("diffprune.report.finished", "from diffprune.data import load_images"),
    ("diffprune.pruning.target", "from experiments.planning.cells import plan")])
def test_an_import_against_the_direction_is_seen(module: str, source: str) -> None:
    assert against_the_direction(module, source) != []


def test_there_is_no_circle() -> None:
    """Between modules, whatever their folders."""
    names = {module.removesuffix(".__init__") for module, _ in modules()}
    graph = {}
    for module, file in modules():
        wanted = imports(ast.parse(file.read_text()))
        own = module.removesuffix(".__init__")
        graph[own] = {target for name in wanted for target in (name, name.rpartition(".")[0])
                      if target in names and target != own and not own.startswith(f"{target}.")}
    for start in graph:
        reached, left = set(), set(graph[start])
        while left:
            reached |= left
            left = {target for module in left for target in graph[module]} - reached
        assert start not in reached, f"{start} imports itself through others"


def test_the_house_is_small_enough_to_find_ones_way() -> None:
    """At most 9 modules beside the folders, 15 in a folder, the whole configuration in 12 files."""
    package = ROOT / "diffprune"
    beside = [file for file in package.glob("*.py") if file.name != "__init__.py"]
    assert len(beside) <= 9
    for folder in {file.parent for file in package.rglob("*.py")}:
        assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) <= 15, folder
    sources = [file for top in ("diffprune", "experiments", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    assert len([file for file in sources if "DictConfig" in file.read_text()]) <= 12
