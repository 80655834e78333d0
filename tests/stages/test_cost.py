"""What a run has cost: the formulas, and that the evaluations which they count really happen."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.config.naming import run_name
from diffprune.config.validation import check
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pipeline import reproduce
from diffprune.pruning.compensation import Regression
from diffprune.pruning.criteria import DiffPruning
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import score
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.timesteps import Largest, Policy, Threshold, Window
from diffprune.runs.metrics import Metrics
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json, write_json
from diffprune.stages.cost import affordable_steps, scoring_evaluations
from diffprune.training.losses import TERMS, FiniteDifference, NoisePrediction, OutputDistillation
from diffprune.training.recipe import Recipe
from diffprune.training.trainer import Trainer
from tests.conftest import tiny_unet

SMALL = ("pruner.calibration_batch=2", "pruner.compensation_images=8", "schedule.batch=4", "evaluate.images=8",
         "sampler.steps=2", "evaluate.speed=false", "model.checkpoint=null", "model.scheduler.num_train_timesteps=20")


@pytest.mark.parametrize(("terms", "student", "dense"), [
    (["noise"], 3, 0), (["output"], 3, 1), (["noise", "output", "kept_features", "place"], 3, 1),
    (["jacobian_difference"], 9, 3), (["output", "jacobian_difference"], 9, 3)])
def test_a_step_costs_its_evaluations(terms: list[str], student: int, dense: int) -> None:
    recipe = Recipe(1, batch=5, objective={TERMS[name]: 1.0 for name in terms})
    assert recipe.step_macs(1, 0) == 5 * student
    assert recipe.step_macs(0, 1) == 5 * dense


@pytest.mark.parametrize("term", [NoisePrediction, OutputDistillation, FiniteDifference])
def test_as_many_evaluations_happen(term: type) -> None:
    model, teacher = (DiffusionModel(tiny_unet(), DDIMScheduler()) for _ in range(2))
    counts = {"student": 0, "teacher": 0}
    for name, network in (("student", model.unet), ("teacher", teacher.unet)):
        network.register_forward_hook(lambda _, given, out, name=name: counts.update({name: counts[name] + len(given[0])}))
    recipe = Recipe(1, batch=4, objective={NoisePrediction: 1.0, OutputDistillation: 1.0, term: 1.0})
    Trainer(model, recipe, teacher=teacher).advance(torch.randn(4, 1, 8, 8), None)
    assert recipe.step_macs(1, 0) == 3 * counts["student"]
    assert recipe.step_macs(0, 1) == counts["teacher"]


def test_a_regression_costs_its_matrices_and_its_solution() -> None:
    regression = Regression(torch.zeros(4, 10))
    for rows in (60, 40):
        regression.add(torch.ones(rows, 10), torch.ones(rows, 4))
    assert regression.macs == 100 * 10 * 10 + 100 * 10 * 4 + 10**3 // 3 + 10 * 10 * 4


@pytest.mark.parametrize("term", [NoisePrediction, OutputDistillation, FiniteDifference])
def test_a_term_alone_takes_the_evaluations_that_are_counted(term: type) -> None:
    model, teacher = (DiffusionModel(tiny_unet(), DDIMScheduler()) for _ in range(2))
    student, taught = forward_count(model.unet), forward_count(teacher.unet)
    recipe = Recipe(1, batch=4, objective={term: 1.0})
    Trainer(model, recipe, teacher=teacher if term.needs_teacher else None).advance(torch.randn(4, 1, 8, 8), None)
    assert (recipe.step_macs(1, 0), recipe.step_macs(0, 1)) == (3 * sum(student), sum(taught))


@pytest.mark.parametrize(("policy", "kept"), [
    (Threshold(0.0), 12), (Threshold(1.0), 1), (Threshold(1.0, True), 2), (Window(2, 5), 4), (Largest(3), 3)])
def test_a_scoring_pass_takes_the_evaluations_that_are_counted(policy: Policy, kept: int, tmp_path: Path) -> None:
    """With these weights and this noise the second loss is below the first, where T = 1 stops."""
    model, run = DiffusionModel(tiny_unet(), DDIMScheduler(num_train_timesteps=12)), Run(tmp_path)
    forward, backward = forward_count(model.unet), []

    def count_backward(_: torch.nn.Module, given: tuple, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda gradient: backward.append(len(gradient)))

    model.unet.conv_out.register_forward_hook(count_backward)
    batch = CalibrationBatch.with_noise(torch.zeros(2, 1, 8, 8), 0)
    score(model, DiffPruning(), batch, policy, per_evaluation=1).write(run.scores)
    assert len(backward) == kept
    assert 2 * scoring_evaluations(run, policy.needs_all_losses) == sum(forward) + 2 * sum(backward)


def forward_count(network: torch.nn.Module) -> list[int]:
    """To which every evaluation of the `network` adds its number of images."""
    counted: list[int] = []
    network.register_forward_hook(lambda _, given, out: counted.append(len(given[0])))
    return counted


@pytest.mark.parametrize(("compensation", "steps"), [(0, 75), (12_000, 67), (10**9, 1)])
def test_compensation_is_paid_from_what_the_noise_objective_would_cost(tmp_path: Path, compensation: int,
                                                                       steps: int) -> None:
    run, recipe = Run(tmp_path), Recipe(100, batch=4, objective={OutputDistillation: 1.0})
    report = PruneReport(0.3, 1, 100, 2, 100, {}, [])
    write_json(run.prune_report, asdict(report) | {"compensation": {"macs": compensation}})
    budget, step = 100 * 4 * 3 * 100 - compensation, 4 * (3 * 100 + 100)
    assert affordable_steps(recipe, run) == steps
    assert steps == 1 or steps * step <= budget < (steps + 1) * step


def finished(config, folder: Path, *overrides: str) -> Metrics:
    run = Run(folder)
    reproduce(config(*SMALL, *overrides), run)
    return Metrics.read(run.metrics)


@pytest.mark.slow
def test_a_run_says_what_each_stage_has_cost(config, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    done = finished(config, run.folder, "schedule.steps=6", "pruner.compensate=ridge", "pruner.threshold=0")
    layers = read_json(run.prune_report)["compensation"]["layers"]
    assert done.cost == {
        "score": 2 * (20 + 2 * 20) * done.macs_dense, "finetune": 6 * 4 * 3 * done.macs, "sample": 8 * 2 * done.macs,
        "compensate": sum(layer["macs"] for layer in layers.values()) + 8 * (done.macs + done.macs_dense)}


@pytest.mark.slow
def test_rounds_are_summed_at_their_own_widths(config, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    trained = [text for text in SMALL if not text.startswith("model.")]     # rounds need a trained model
    reproduce(config(*trained, "schedule.steps=6", "schedule.rounds=2", "pruner=magnitude"), run)
    first, last = (entry["macs"] for entry in read_json(run.prune_report)["rounds"])
    assert first > last
    assert Metrics.read(run.metrics).cost["finetune"] == 3 * 4 * 3 * (first + last)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [("schedule.dropout=0",), ("pruner.compensate=ridge",)])
def test_at_equal_cost_as_many_steps_are_taken_as_the_noise_objectives_pay_for(config, tmp_path: Path,
                                                                               overrides: tuple[str, ...]) -> None:
    run, trained = Run(tmp_path / "run"), [text for text in SMALL if not text.startswith("model.")]
    cfg = config(*trained, "pruner=magnitude", "schedule.steps=400", "schedule.objective={noise: 0, output: 1}",
                 "schedule.equal_cost=true", "schedule.measure_every=0", *overrides)
    reproduce(cfg, run)
    done, steps = Metrics.read(run.metrics), ProgressLog.read(run.progress)[-1]["step"]
    budget = 400 * 4 * 3 * done.macs
    spent = done.cost["finetune"] + done.cost["compensate"]
    assert spent <= budget < spent + 4 * (3 * done.macs + done.macs_dense)
    assert done.cost["finetune"] == steps * 4 * (3 * done.macs + done.macs_dense)
    assert (done.cost["compensate"] > 0) == ("pruner.compensate=ridge" in overrides)


def test_equal_cost_names_a_run_and_its_absence_does_not(config) -> None:
    assert run_name(config("schedule.equal_cost=true")) != run_name(config())
    assert run_name(config("schedule.equal_cost=false")) == run_name(config())


def test_equal_cost_of_several_rounds_is_refused(config) -> None:
    words = ["schedule.rounds=2", "schedule.equal_cost=true"]
    with pytest.raises(UserError, match="which counts the steps of a single round"):
        check(config(*words), words)
