"""The model card of a run, every number of which is in the run's files."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from shutil import copyfile

import pytest
from diffusers import DDIMScheduler

import diffprune
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.report.model_card import write_card
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from tests.conftest import ROOT, tiny_unet

KEPT = next((ROOT / "experiments" / "results" / "digits").glob("*-diffprune_digits-s3-*"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run with the numbers of a kept one."""
    run = Run(tmp_path / "run")
    (run.folder / ".hydra").mkdir(parents=True)
    run.config.write_text("schedule: {steps: 5}\n")
    copyfile(KEPT / "metrics.json", run.metrics)
    report = asdict(diffprune.prune(unet := tiny_unet(), 0.5, "magnitude"))
    target = {"quantity": "macs", "target": 0.25, "reached": 0.2612345678}
    write_json(run.prune_report, report | {"target": target, "compensation": {"images": 512}})
    save_model(DiffusionModel(unet, DDIMScheduler()), run.finetuned)
    return run


def entry(files: dict[str, dict], where: str) -> object:
    """The value of `prune.json: compensation.images`."""
    file, _, path = where.partition(": ")
    value = files[file]
    for name in path.split("."):
        value = value[name]
    return value


def test_every_number_of_the_card_is_in_the_runs_files(run: Run) -> None:
    text = write_card(run).read_text()
    files = {file: json.loads((run.folder / file).read_text()) for file in ("metrics.json", "prune.json")}
    traced, shown = 0, set()
    for block in re.findall(r"\|  \|.*\n(?:\|.*\n)+", text):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
        for row in rows:
            cells = [cell for cell in row[1:-1] if cell != "–"]
            values = [entry(files, f"{head[-1].removeprefix('in ')}: {name}") for name in re.findall(r"`(.*?)`", row[-1])]
            assert sorted(cells) == sorted(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
            traced, shown = traced + len(cells), shown | set(cells)
    assert traced > 50
    # Outside the tables there is no other number but the seed, with its place, and those of names.
    prose = re.sub(r"^(\||# |- ).*$", "", re.sub(r"```[^`]*```|`[^`]*`", "", text), flags=re.MULTILINE)
    assert re.findall(r"\d+", prose) == [str(files["metrics.json"]["seed"])]


def test_a_row_shows_each_model_in_its_column(run: Run) -> None:
    metrics, text = json.loads(run.metrics.read_text()), write_card(run).read_text()
    line = next(line for line in text.splitlines() if line.startswith("| Fréchet distance (digits"))
    cells = [f"{metrics[name]:.6g}" for name in ("fid", "fid_dense", "fid_before_healing")]
    assert line.split(" | ")[1:4] == cells
    assert text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if x.startswith("|  |")))] == (
        "|  | this model | dense model | before fine-tuning | in metrics.json |")


def test_the_folder_with_its_card_is_whole_and_the_card_is_written_once(run: Run) -> None:
    card = write_card(run)
    before = card.stat().st_mtime_ns
    assert write_card(run).stat().st_mtime_ns == before
    load_model(run.finetuned)
    assert "README.md" in (run.finetuned / "checksums.sha256").read_text()
    save_model(load_model(run.finetuned), run.finetuned)       # a folder of this project's own may be replaced


def test_a_card_that_somebody_has_edited_stays_and_the_model_loads(run: Run) -> None:
    card = write_card(run)
    card.write_text("Do not use this for cats.")
    assert write_card(run).read_text() == "Do not use this for cats."
    load_model(run.finetuned)
    with pytest.raises(UserError, match=r"README\.md is not as this project wrote it"):
        save_model(load_model(run.finetuned), run.finetuned)


def test_a_card_follows_the_runs_numbers(run: Run) -> None:
    write_card(run)
    write_json(run.metrics, json.loads(run.metrics.read_text()) | {"fid": 1.25})
    assert "| 1.25 |" in write_card(run).read_text()


@pytest.mark.slow
def test_one_command_ends_with_a_card(config) -> None:
    from diffprune.config.naming import run_folder
    from diffprune.job import one
    cfg = config("experiment=smoke", "evaluate.speed=false")
    one(cfg)
    run = Run(run_folder(cfg))
    text = (run.final_model() / "README.md").read_text()
    assert f"| parameters | {json.loads(run.metrics.read_text())['params']} |" in text
    assert "trust_remote_code=True" in text
