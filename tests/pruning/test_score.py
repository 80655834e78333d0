"""The scoring stage: which timesteps count, what its file holds, and what it refuses."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffprune.config.naming import run_folder, run_name, science
from diffprune.config.validation import check
from diffprune.models.model_folder import save_model
from diffprune.pruning.criteria import Criterion, Slice
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.scores import Scores
from diffprune.runs.run import Run
from diffprune.runs.score_file import ScoreHeader
from diffprune.runtime.errors import UserError
from diffprune.stages import prune, score
from diffprune.tracking.tracker import Tracker
from tests.pruning.test_gradient_cache import TIMESTEPS, small_model


@pytest.fixture
def tiny(config, tmp_path: Path):
    """Composes a run of a tiny model on two digits."""
    save_model(small_model(), tmp_path / "model")
    return lambda *overrides: config(f"model.checkpoint={tmp_path}/model", "pruner.calibration_batch=2", "device=cpu",
                                     "sampler.steps=4", *overrides)


def scores(cfg) -> Path:
    score.stage(cfg, Run(run_folder(cfg)), Tracker())
    return Run(run_folder(cfg)).scores


def about(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"])


def test_a_threshold_leaves_the_file_as_it_always_was(tiny) -> None:
    path = scores(tiny("pruner.threshold=0"))
    names = load_file(path).keys()
    assert {name.split("/")[0] for name in names} == {"terms", "loss"}
    assert {name.split("/")[1] for name in names if name != "loss"} == {"wg", "wg2"}
    told = about(path)
    assert told.keys() == {"criterion", "threshold", "kept", "stops", "seconds"}
    assert (told["kept"], told["stops"]["0"]) == (TIMESTEPS, TIMESTEPS)


@pytest.mark.parametrize(("choice", "kept"), [
    (["pruner/timesteps=window", "pruner.timesteps.first=3", "pruner.timesteps.last=6"], 4),
    (["pruner/timesteps=largest", "pruner.timesteps.count=5"], 5),
    (["pruner/timesteps=weights", "pruner.timesteps.points=[[0,1],[7,0]]"], 7)])
def test_a_policy_is_chosen_by_name_and_written_down(tiny, choice: list[str], kept: int) -> None:
    path = scores(tiny(*choice))
    tensors, told = load_file(path), about(path)
    assert told["kept"] == kept == int(torch.count_nonzero(tensors["alpha"]))
    assert len(tensors["alpha"]) == len(tensors["loss"]) == TIMESTEPS
    assert ScoreHeader.read(path).losses.alpha.tolist() == tensors["alpha"].tolist()


def test_a_policy_that_counts_nothing_is_refused(tiny) -> None:
    with pytest.raises(UserError, match=r"Window\(first=900, last=950\) counts none of the model's 16 timesteps"):
        scores(tiny("pruner/timesteps=window", "pruner.timesteps.first=900", "pruner.timesteps.last=950"))


class Cubic(Criterion):
    """A criterion of its own, with a term of its own."""
    gradient = True
    terms: ClassVar = {"wg3": lambda w, g: (w * g).abs() ** 3}

    def score(self, slices: list[Slice], channels: int, rng: torch.Generator) -> torch.Tensor:
        return torch.stack([s.sum("wg3") for s in slices]).sum(0)


def test_a_new_criterion_is_one_class(tiny) -> None:
    cfg = tiny("pruner.criterion._target_=tests.pruning.test_score.Cubic", "pruner.ratio=.5")
    assert Scores.read(scores(cfg)).terms.keys() == {"wg3"}
    run = Run(run_folder(cfg))
    prune.stage(cfg, run, Tracker())
    assert any(group["removed"] for group in PruneReport.read(run.prune_report).groups)


def test_a_policys_bad_values_are_a_mistake_of_the_user(tiny) -> None:
    with pytest.raises(UserError, match=r"pruner.timesteps.points=.* must be pairs \[t, alpha\] with ascending t"):
        scores(tiny("pruner/timesteps=weights", "pruner.timesteps.points=[[3,1],[1,1]]"))


def test_a_policy_stands_in_the_name_where_the_threshold_did(config) -> None:
    cfg = config("pruner/timesteps=window", "pruner.timesteps.first=100")
    assert "-window100_499-r0.3-" in run_name(cfg)
    assert "threshold" not in science(cfg)["pruner"]
    assert "-largest250-" in run_name(config("pruner/timesteps=largest"))


def test_how_a_scoring_pass_is_shared_is_outside_the_name_and_how_it_is_split_is_not(config) -> None:
    assert run_name(config("pruner.thresholds=[0,.05]", "pruner.stops_kept=2")) == run_name(config())
    assert run_name(config("pruner.timesteps_per_pass=4")) != run_name(config())
    assert run_name(config("pruner.floor=.2")) == run_name(config())
    assert run_name(config("pruner.scope=global")) != run_name(config("pruner.scope=global", "pruner.floor=.2"))


@pytest.mark.parametrize(("overrides", "words"), [
    (["pruner/timesteps=window", "pruner.timesteps.first=600"], "timesteps.last=499 lies before"),
    (["pruner/timesteps=largest", "pruner.timesteps.count=0"], "pruner.timesteps.count=0"),
    (["pruner.thresholds=[0,-1]"], "pruner.thresholds"), (["pruner.stops_kept=0"], "pruner.stops_kept=0"),
    (["pruner.timesteps_per_pass=0"], "pruner.timesteps_per_pass=0"), (["pruner.scope=world"], "pruner.scope=world"),
    (["pruner.floor=1.0"], "pruner.floor=1.0")])
def test_what_cannot_be_is_refused_before_any_work(config, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(config(*overrides))
