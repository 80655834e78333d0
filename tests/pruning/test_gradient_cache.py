"""One scoring pass serves every threshold, policy, criterion and ratio, in every process."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from diffprune.config.naming import run_folder
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import save_model
from diffprune.pruning.gradient_cache import GradientCache
from diffprune.pruning.gradients import CalibrationBatch, GradientSum, ScoringPass, trimmed
from diffprune.pruning.timesteps import Largest, Threshold, Weights, Window
from diffprune.runs.run import Run
from diffprune.stages import score
from tests.conftest import ROOT, tiny_unet

TIMESTEPS = 16


def small_model() -> DiffusionModel:
    return DiffusionModel(tiny_unet((4, 8)), DDIMScheduler(num_train_timesteps=TIMESTEPS, beta_start=1e-3, beta_end=0.4))


def small_pass(per_evaluation: int | None = 1, mean_loss: bool = False, seed: int = 1) -> ScoringPass:
    rng = torch.Generator().manual_seed(seed)
    x_0, eps = torch.rand(2, 1, 8, 8, generator=rng) * 2 - 1, torch.randn(2, 1, 8, 8, generator=rng)
    return ScoringPass(small_model(), CalibrationBatch(x_0, eps), mean_loss, per_evaluation)


def drop(total: GradientSum) -> None:
    pass


class Counted:
    """How many timesteps the networks of all scoring passes were evaluated at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timesteps, losses = 0, ScoringPass.losses

        def counting(scoring_pass: ScoringPass, timesteps: torch.Tensor) -> torch.Tensor:
            self.timesteps += len(timesteps)
            return losses(scoring_pass, timesteps)
        monkeypatch.setattr(ScoringPass, "losses", counting)

    def since(self) -> int:
        seen, self.timesteps = self.timesteps, 0
        return seen


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def reached_at(stop: int) -> Threshold:
    """The threshold that is reached at the timestep `stop` of the small scoring_pass."""
    loss = small_pass().run([], drop)
    below = loss / loss.cummax(0).values
    threshold = float(below[stop]) + 1e-6
    assert int((below < threshold).nonzero()[0]) == stop, "choose a timestep with a loss below all before it"
    return Threshold(threshold)


def stops() -> list[int]:
    """The timesteps at which some threshold is reached, ascending."""
    loss = small_pass().run([], drop)
    below = loss / loss.cummax(0).values
    return [t for t in range(1, TIMESTEPS) if below[t] < below[:t].min() - 1e-5]


def same(one: GradientSum, other: GradientSum) -> bool:
    return torch.equal(one.alpha, other.alpha) and one.gradients.keys() == other.gradients.keys() and all(
        torch.equal(one.gradients[layer], other.gradients[layer]) for layer in one.gradients)


@pytest.mark.slow
@pytest.mark.parametrize("per_evaluation", [1, 3])
def test_a_later_threshold_goes_on_from_a_kept_sum_bit_equal_to_a_fresh_pass(tmp_path: Path, counted: Counted,
                                                                               per_evaluation: int) -> None:
    early, late = (reached_at(stops()[i]) for i in (0, -1))
    scoring_pass, cache = small_pass(per_evaluation), GradientCache(tmp_path, 8)
    for policy in (late, early, Threshold(0.0)):
        loss, fresh = scoring_pass.sum(policy)
        counted.since()
        stored_loss, served = cache.sum(scoring_pass, policy)
        walked = counted.since()
        assert torch.equal(stored_loss, loss)
        assert same(served, fresh)
        assert cache.sum(scoring_pass, policy)[1].alpha.equal(fresh.alpha)
        assert counted.since() == 0
        if policy == Threshold(0.0) and per_evaluation == 1:
            assert walked == TIMESTEPS - stops()[-1]      # only what the nearest stop lacks


@pytest.mark.slow
def test_several_thresholds_in_one_pass_get_what_each_gets_alone(counted: Counted) -> None:
    thresholds = [Threshold(0.0), *(reached_at(stop) for stop in stops()[:2])]
    for per_evaluation in (1, 3, None):
        counted.since()
        scoring_pass, together = small_pass(per_evaluation), []
        loss = scoring_pass.run(thresholds, together.append)
        assert counted.since() == TIMESTEPS
        assert len(together) == len(thresholds)
        for policy in thresholds:
            (total,) = [total for total in together if torch.equal(total.alpha, trimmed(policy.weights(loss)))]
            assert same(total, small_pass(per_evaluation).sum(policy)[1])


def test_each_sum_is_handed_over_when_it_is_complete(counted: Counted) -> None:
    thresholds, handed = [Threshold(0.0), *(reached_at(stop) for stop in stops()[:2])], []
    together = [small_pass(1).sum(policy)[1] for policy in thresholds]
    counted.since()
    small_pass(1).run(thresholds, lambda total: handed.append((counted.since(), total)))
    evaluated = [sum(since for since, _ in handed[:i + 1]) for i in range(len(handed))]
    assert evaluated == sorted(len(total.alpha) + (len(total.alpha) < TIMESTEPS) for total in together)
    assert all(any(same(total, other) for _, other in handed) for total in together)


def test_named_thresholds_cost_no_pass_of_their_own(tmp_path: Path, counted: Counted) -> None:
    thresholds = [reached_at(stop) for stop in stops()[:2]]
    scoring_pass, cache = small_pass(), GradientCache(tmp_path, 8)
    counted.since()
    GradientCache(tmp_path, 8, thresholds).sum(scoring_pass, Threshold(0.0))
    for policy in thresholds:
        cache.sum(scoring_pass, policy)
    assert counted.since() == TIMESTEPS


@pytest.mark.slow
def test_policies_that_weigh_a_beginning_alike_share_it(tmp_path: Path, counted: Counted) -> None:
    scoring_pass, cache = small_pass(), GradientCache(tmp_path, 8)
    cache.sum(scoring_pass, Window(0, 9))
    counted.since()
    for policy, walked in ((Window(0, 14), 5), (Weights([[0, 1.0], [9, 1.0]]), 0), (Window(5, 9), 5), (Window(5, 11), 2),
                           (Largest(3), 3), (Threshold(0.0), TIMESTEPS - 15)):
        loss, served = cache.sum(scoring_pass, policy)
        assert counted.since() == walked, policy
        assert same(served, scoring_pass.accumulate(policy.weights(loss)))
        counted.since()


def test_a_sum_that_ends_within_a_pass_is_no_start() -> None:
    scoring_pass = small_pass(4)
    within, whole = (scoring_pass.accumulate(torch.ones(stop)) for stop in (3, 4))
    with pytest.raises(ValueError, match="over 8 timesteps cannot be continued from one over 3 with 4 t"):
        scoring_pass.accumulate(torch.ones(8), within)
    with pytest.raises(ValueError, match="cannot be continued"):
        scoring_pass.accumulate(torch.zeros(8), whole)
    assert same(scoring_pass.accumulate(torch.ones(8), whole), scoring_pass.accumulate(torch.ones(8)))


def test_a_weighted_sum_is_what_its_formula_says() -> None:
    scoring_pass = small_pass()
    alpha = Weights([[2, 0.5], [6, 2.5]]).weights(torch.zeros(TIMESTEPS))
    total = scoring_pass.accumulate(alpha)
    parts = [scoring_pass.accumulate(torch.eye(TIMESTEPS)[t]) for t in range(2, 7)]
    for layer, gradient in total.gradients.items():
        expected = sum(float(alpha[2 + i]) * part.gradients[layer] for i, part in enumerate(parts))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_loss_of_a_power_of_two_pixels_is_the_same_pass() -> None:
    (loss, summed), (mean_loss, mean) = (small_pass(mean_loss=of).sum(Threshold(0.0)) for of in (False, True))
    assert torch.equal(loss / 64, mean_loss)
    assert all(torch.equal(g / 64, mean.gradients[layer]) for layer, g in summed.gradients.items())


def test_no_more_sums_than_the_limit_stay_and_the_cheapest_goes_first(tmp_path: Path) -> None:
    scoring_pass = small_pass()
    for last in (3, 4, 10):
        GradientCache(tmp_path, 9).sum(scoring_pass, Window(0, last))
    cache = GradientCache(tmp_path, 3)
    cache.sum(scoring_pass, Window(0, 15))
    assert sorted(len(alpha) for alpha in cache.kept().values()) == [4, 11, 16]     # 5 is one timestep from 4
    GradientCache(tmp_path, 1, [Window(0, 2)]).sum(scoring_pass, Window(0, 1))
    assert sorted(len(alpha) for alpha in cache.kept().values()) == [2, 3]          # what is asked for now stays


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".sum-0004-x.safetensors.1.partial").write_bytes(b"half")
    GradientCache(tmp_path, 8).sum(small_pass(), Window(0, 1))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_a_grid_of_criteria_thresholds_and_ratios_is_one_scoring_pass(config, tmp_path: Path, counted: Counted) -> None:
    save_model(small_model(), tmp_path / "model")
    cfg = config(f"model.checkpoint={tmp_path}/model", "pruner.calibration_batch=2", "device=cpu",
                 "sampler.steps=4", "pruner.thresholds=[0,.5,.9,.99]")
    runs = set()
    for criterion in ("DiffPruning", "FirstOrderTaylor", "TorchPruningTaylor"):
        for threshold, ratio in product((0.0, 0.5, 0.9, 0.99), (0.2, 0.3, 0.4)):
            cfg.pruner.criterion._target_ = f"diffprune.pruning.criteria.{criterion}"
            cfg.pruner.threshold, cfg.pruner.ratio = threshold, ratio
            run = Run(run_folder(cfg))
            score.stage(cfg, run, None)
            runs.add(run.scores)
    assert len(runs) == 3 * 4 * 3
    assert counted.since() == TIMESTEPS
    cfg.pruner.criterion._target_, cfg.pruner.threshold = "diffprune.pruning.criteria.DiffusersScript", 0.0
    cfg.pruner.thresholds = None
    score.stage(cfg, Run(run_folder(cfg)), None)
    assert counted.since() == 0
    mean, summed = (load_file(scores)["loss"] for scores in (Run(run_folder(cfg)).scores, run.scores))
    assert torch.equal(mean, summed / 64)


PROCESS = """
import sys
from pathlib import Path
from diffprune.runs.cache import Cache
from diffprune.pruning.gradient_cache import GradientCache
from tests.pruning import test_gradient_cache as t
import pytest
counted = t.Counted(pytest.MonkeyPatch())
with Cache(Path(sys.argv[1])).entry("walks", "it", "") as folder:
    GradientCache(folder, 8).sum(t.small_pass(), t.Window(0, int(sys.argv[2])))
print(counted.since())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("lasts", "walked"), [((9, 9), {TIMESTEPS}), ((4, 9), {TIMESTEPS + 5})])
def test_two_processes_make_one_pass(tmp_path: Path, lasts: tuple[int, int], walked: set[int]) -> None:
    """Whoever comes second adds what is missing: from 4 to 9 five timesteps, from 9 to 4 all five of the shorter sum."""
    both = [subprocess.Popen([sys.executable, "-c", PROCESS, tmp_path, str(last)], cwd=ROOT, stdout=subprocess.PIPE,
                             text=True) for last in lasts]
    said = [process.communicate(timeout=100)[0] for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sum(map(int, said)) in walked
    for last in lasts:
        cache = GradientCache(next((tmp_path / "walks").iterdir()), 8)
        alpha = trimmed(Window(0, last).weights(torch.zeros(TIMESTEPS)))
        assert same(cache.read(alpha), small_pass().accumulate(alpha))
    assert not list(tmp_path.rglob("*.partial"))
