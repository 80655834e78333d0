"""A run's name says what its sweep varies, and a run has one folder whoever names it."""

import subprocess
from pathlib import Path

import pytest

from diffprune.config.naming import LONGEST_NAME, all_options, folders_by_hash, name_of, run_folder, run_name, science
from diffprune.config.sweep_words import fixed_keys, sweep_words
from experiments.planning.cells import plan
from tests.conftest import ROOT
from tests.test_multirun import sweep


@pytest.mark.parametrize(("overrides", "words"), [
    (["schedule.lr=1e-4", "schedule.rounds=2"], ["lr0.0001"]), (["pruner.ratio=.2", "seed=3", "pruner.target.macs=.5"], []),
    (["sampler.steps=5", "schedule.steps=7"], ["sampler.steps5", "schedule.steps7"]),
    (["pruner=magnitude", "experiment=smoke", "sampler=celeba"], ["sampler_celeba"]),
    (["evaluate.before_healing=false", "precision=bf16"], ["before_healingfalse", "precisionbf16"]),
    (["schedule.objective={noise:0.3,output:0.7}", "schedule.betas=[.9,.99]"],
     ["objectivenoise0.3_output0.7", "betas0.9_0.99"]),
    (["model.checkpoint=/models/my model", "schedule.clip=null"], ["checkpointmy_model", "clipnone"]),
    (["paths.runs=/x", "logger=none", "schedule.save_every=7", "dataset.workers=2"], [])])
def test_an_option_that_changes_the_result_has_a_word(config, overrides: list[str], words: list[str]) -> None:
    assert sweep_words(all_options(config(*overrides)), overrides) == words


def test_plain_values_change_no_name_and_a_long_list_of_words_is_cut(config) -> None:
    cfg = config()
    assert run_folder(cfg, ["pruner=diff_pruning", "pruner.ratio=.3", "seed=0"]).name == run_name(cfg)
    name = name_of(science(cfg), [f"word{i}" for i in range(99)])
    assert LONGEST_NAME - 10 < len(name) <= LONGEST_NAME
    assert "-word0-word1-" in name
    assert name.endswith(run_name(cfg)[-12:])


def test_a_run_is_found_under_the_name_that_it_was_given_first(config) -> None:
    cfg, words = config("schedule.lr=1e-4", "sampler.steps=5"), ["schedule.lr=1e-4", "sampler.steps=5"]
    long = run_folder(cfg, words)
    assert "-finetune_digits-lr0.0001-steps5-s0-" in long.name
    assert run_folder(cfg).name == run_name(cfg) != long.name
    long.mkdir(parents=True)
    (long.parent / f"copy-{long.name}").mkdir()
    assert run_folder(cfg) == run_folder(cfg, words) == run_folder(cfg, words[:1]) == long
    assert folders_by_hash(long.parent / "nowhere") == {}
    options = [*words, f"paths.runs={cfg.paths.runs}"]
    assert long in [cell.folder for cell in plan(["table1_digits"], options, (0,)).cells]


def test_what_all_jobs_of_a_sweep_have_is_told_from_what_it_varies() -> None:
    assert fixed_keys(["seed=0,1", "a.b=[1,2]", "+c/d@e=f", "~g", "h=range(1,3)"]) == ["a.b", "c/d@e", "g"]
    assert fixed_keys(["no grammar = ("]) == []


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_named_by_what_it_varies(tmp_path: Path) -> None:
    words = ["experiment=smoke", "until=score", "logger=none", "pruner=magnitude", "schedule.steps=3"]
    done = subprocess.run([*sweep(tmp_path), *words, "schedule.eps=range(.1,.5,.2)"], cwd=ROOT, check=True, text=True,
                          capture_output=True)
    folders = sorted(folder.name.rpartition("-")[0] for folder in (tmp_path / "runs" / "digits").iterdir())
    assert folders == [f"ddpm_digits-magnitude-r0.3-smoke-eps{eps}-s0" for eps in (0.1, 0.3)]
    assert "run 2 of 2: schedule.eps=0.3\n" in done.stdout
