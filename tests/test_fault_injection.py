"""Any file of a run and of the cache may be damaged: the repeated command gives the same result, or ends with one sentence
that names the file. Every call that deletes or replaces files is listed, with the reason why nothing of a user's is lost."""

import ast
import ctypes
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from diffusers import DDIMScheduler
from omegaconf import DictConfig

from diffprune.config.naming import run_folder
from diffprune.job import one
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from tests.conftest import ROOT, tiny_unet

SEED = 0        # of the place of a flipped bit in each file
UNLIKE = {"seconds", "commits"}      # of metrics.json: durations, and what a provenance.json that was deleted had said
TINY = ("experiment=smoke", "device=cpu", "evaluate.speed=false", "evaluate.images=24", "sampler.steps=2", "sampler.batch=8",
        "schedule.steps=2", "schedule.preview_every=2", "pruner.calibration_batch=2", "evaluate.reference=null",
        "dataset.held_out=1", "evaluate.subset=24")


@dataclass
class Tree:
    """A finished run and its cache below `folder`, and the numbers and images that it has."""
    folder: Path
    cfg: DictConfig
    run: Run
    undisturbed: dict

    def copy(self) -> None:
        """Lays out the finished run and its cache as they were."""
        for name in ("runs", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.folder / "kept" / name, self.folder / name)

    def files(self) -> list[Path]:
        """Every file of both, relative to `folder`; locks hold nothing."""
        kept = self.folder / "kept"
        return sorted(file.relative_to(kept) for file in kept.rglob("*") if file.is_file() and file.suffix != ".lock")

    def forget_after(self, file: Path) -> None:
        """Deletes what the run made after `file`, so that `file` is read again."""
        content = file.with_name(file.name[1:].removesuffix(".sha256")) if file.name.startswith(".") else file
        written = (content if content.is_file() else file).stat().st_mtime_ns
        run = self.run
        for output in (run.scores, run.prune_report, run.pruned, run.finetuned, run.progress, run.images, run.samples_report,
                       run.metrics):
            newest = max((each.stat().st_mtime_ns for each in [output, *output.rglob("*")]), default=0)
            if newest > written and output not in (content, *content.parents):
                shutil.rmtree(output) if output.is_dir() else output.unlink()

    def result(self, whole: bool = True) -> dict:
        """The numbers, and of the `whole` run also images and weights."""
        metrics = json.loads(self.run.metrics.read_text())
        files = [self.run.images, *(self.run.finetuned / "unet").glob("*.safetensors")] if whole else []
        return {name: value for name, value in metrics.items() if name not in UNLIKE} | {
            file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    from hydra import compose, initialize_config_dir

    from diffprune.config.compose import register
    folder = tmp_path_factory.mktemp("tree")
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler(num_train_timesteps=10)), folder / "dense")
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*TINY, f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "logger=none",
                                           f"model.checkpoint={folder}/dense"])
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("diffprune.report.write_report", lambda folder: None)       # takes long, and is never read again
    one(cfg)
    made = Tree(folder, cfg, Run(run_folder(cfg)), {})
    made.undisturbed = made.result()
    for name in ("runs", "cache"):
        shutil.copytree(folder / name, folder / "kept" / name)
    yield made
    monkeypatch.undo()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    if content:
        place = random.Random(f"{SEED} {file.name}").randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def forbid(file: Path) -> None:
    file.chmod(0)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "mine").write_text("years of work")


@contextmanager
def without_override() -> Iterator[None]:
    """Takes root's right to read whatever the mode of a file says from this thread (CAP_DAC_OVERRIDE, …_READ_SEARCH)."""
    system, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, sets) == 0
    former = sets[0]
    sets[0] = former & ~0b110
    assert system.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = former
        assert system.capset(header, sets) == 0


def outcome(tree: Tree, whole: bool = True) -> str:
    """The sentence that repeating the command ends with; empty where it gives the undisturbed result. A command that has
    nothing to do does not look at the `whole` of it: images and weights."""
    try:
        with without_override():
            one(tree.cfg)
    except UserError as error:
        return str(error)
    different = [name for name, value in tree.result(whole).items() if tree.undisturbed[name] != value]
    assert not different, f"other {', '.join(different)} without a word"
    return ""


def mend(tree: Tree, name: Path) -> None:
    """Does what the sentence says: deletes the file, or the model folder that it belongs to, or mends its mode."""
    file = tree.folder / name
    model = next((folder for folder in (tree.run.pruned, tree.run.finetuned) if folder in file.parents), None)
    if model is not None:
        shutil.rmtree(model)
    elif file.is_dir():
        assert (file / "mine").read_text() == "years of work"
        shutil.rmtree(file)
    else:
        file.unlink()


def tried(tree: Tree, name: Path, damage: Callable[[Path], None], forget: bool) -> None:
    tree.copy()
    if forget:
        tree.forget_after(tree.folder / name)
    damage(tree.folder / name)
    if said := outcome(tree, whole=forget):
        assert "\n" not in said
        assert str(tree.folder / name.parent) in said
        mend(tree, name)
        assert not (again := outcome(tree)), f"after “{said}” and doing so: {again}"


DAMAGES = (flip, truncate, empty, forbid, replace_by_folder)


def wrong(tree: Tree, names: Sequence[Path], damage: Callable[[Path], None]) -> dict[str, str]:
    """{file: what went wrong} after the `damage` to each file alone, in the finished run and where it is read again."""
    failures = {}
    for name, forget in product(names, (False, True)):
        try:
            tried(tree, name, damage, forget)
        except Exception as error:
            failures[f"{name}, {'read again' if forget else 'finished'}"] = f"{type(error).__name__}: {error}"
    return failures


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_to_any_file_changes_nothing_or_is_named(tree: Tree, damage: Callable[[Path], None]) -> None:
    assert wrong(tree, tree.files(), damage) == {}


def test_damage_to_some_files_changes_nothing_or_is_named(tree: Tree) -> None:
    for first, damage in enumerate(DAMAGES):
        assert wrong(tree, tree.files()[9 * first::50], damage) == {}


def test_a_finished_run_in_a_read_only_archive_is_shown(tree: Tree) -> None:
    tree.copy()
    files = [tree.folder / name for name in ("runs", "cache")]
    files += [file for top in files for file in top.rglob("*")]
    modes = {file: file.stat().st_mode for file in files}
    try:
        for file in files:
            file.chmod(0o555 if file.is_dir() else 0o444)
        assert outcome(tree) == ""
    finally:
        for file, mode in modes.items():
            file.chmod(mode)


# Every call that deletes or replaces something, by module and function, and why nothing of a user's is lost by it.
DELETES = {
    "runtime.files.rename os.replace": "a file takes its name; the system refuses a folder of that name",
    "runtime.files.rename unlink": "the checksum of the file that is replaced",
    "runtime.files.atomic_file rename": "the file that the caller was to write",
    "runtime.files.atomic_folder os.replace": "what lies there is what this project wrote, by its list of checksums",
    "runtime.files.atomic_folder remove_tree": "the former folder, which the new one has replaced",
    "runtime.files.temporary_sibling remove_tree": "a name that this call has invented",
    "runtime.files.remove unlink": "the callers of `remove` are listed below; a folder is refused",
    "runtime.files.remove_tree shutil.rmtree": "the callers of `remove_tree` are listed here",
    "runtime.files.remove_tree unlink": "the same, for a file",
    "runtime.files.sweep_partials remove_tree": "hidden names that only `temporary_sibling` gives",
    "runtime.checksums.write_checksum unlink": "the checksum of an earlier version of the same file",
    "runtime.checksums.add_to_list unlink": "a folder's list of checksums, which is written anew with one more",
    "runtime.checksums.discard unlink": "a file of the cache, or a shard, that is not as this project wrote it",
    "runs.cache.entry unlink": "the checksum of a file of the cache that is gone",
    "runs.cache.delete_damaged remove_tree": "a folder of the cache that is not as this project wrote it",
    "runs.cache.sweep_partials_of remove_tree": "hidden names that only `temporary_sibling` gives",
    "runs.progress_log.__init__ unlink": "the checksum of a progress log that is written further",
    "runs.run.open remove": "training states of a fine-tuning that is over, by their names in the run folder",
    "stages.finetune.stage remove": "the same",
    "stages.finetune.resume remove": "training states that are damaged",
    "stages.finetune.save remove": "training states before the newest",
    "pruning.gradient_cache.evict remove": "sums of gradients in the cache, which can be made again",
    "sampling.shards.remove shutil.rmtree": "shards of a set that is complete, in a folder named after their key",
    "sampling.shards.concatenate rename": "the complete set takes its name",
    "models.weights.write_tensors rename": "the file that safetensors has written takes the name of a partial one",
    "models.weights.write_tensors rmdir": "the hidden folder of that file, which is empty then",
    "pruning.compensation.compensate remove_tree": "the hidden folder of what modules returned, which it made",
    "models.rerun.keep unlink": "a file in that folder",
    "models.rerun.forget unlink": "the same",
    "models.fetch.fetch_file remove": "a partial download in the cache, or its tag",
    "models.fetch.fetch_file rename": "a complete download takes its name in the cache",
    "models.fetch.receive remove": "the tag of a partial download",
    "models.dense.fetch_original remove": "a download in the cache that was converted",
    "report.pages.files.write unlink": "a file of an earlier report at this place, by the report's own manifest",
}
CALLS = {"rmtree", "unlink", "rename", "rmdir", "removedirs", "move", "remove", "remove_tree"}


def deletions(file: Path) -> set[str]:
    """`module.function call` of every call in `file` that deletes or replaces files."""
    found = set()

    def visit(node: ast.AST, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                text = ast.unparse(child.func)
                name, whole = text.rpartition(".")[2], text.startswith(("os.", "shutil."))
                replaces = name == "replace" and (whole or (isinstance(child.func, ast.Attribute) and len(child.args) == 1
                                                            and not child.keywords))
                is_list = name == "remove" and text not in ("remove", "os.remove")      # list.remove, or of a hook
                if replaces or (name in CALLS and not is_list):
                    found.add(f"{module}.{function} {text if whole else name}")
            visit(child, child.name if isinstance(child, ast.FunctionDef) else function)

    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("diffprune.")
    visit(ast.parse(file.read_text()), "")
    return found


def test_every_call_that_deletes_or_replaces_files_is_listed_with_its_reason() -> None:
    sources = [file for top in ("diffprune", "experiments", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    assert set().union(*map(deletions, sources)) == set(DELETES)
