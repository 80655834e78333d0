"""A target finds the nominal ratio whose model comes nearest to it."""

import copy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from diffprune.config.naming import run_folder, run_name, science
from diffprune.config.validation import check
from diffprune.cost import sizes
from diffprune.evaluation import speed
from diffprune.evaluation.speed import Latency, latency_share
from diffprune.models.cost import measure
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import DiffPruning, Magnitude
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.selection import PaperSelection, TorchPruningSelection
from diffprune.pruning.surgery import cut
from diffprune.pruning.target import distinct_ratios, search, short_decimal, size_kept
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json
from diffprune.stages import prune, score
from diffprune.tracking.tracker import Tracker
from tests.conftest import tiny_unet
from tests.pruning.test_gradient_cache import small_model
from tests.pruning.test_surgery import scored


def meta_unet() -> torch.nn.Module:
    return tiny_unet((8, 16)).to("meta")


@pytest.mark.parametrize("target", [0.9, 0.41, 0.1])
def test_bisection_finds_the_nearest_of_all(target: float) -> None:
    ratios, asked = [i / 100 for i in range(100)], []

    def share(ratio: float) -> float:
        asked.append(ratio)
        return 1 - round(ratio * 13) / 13       # a staircase, as widths make it
    found = search("macs", target, share, ratios)
    steps, reached = len(asked), found.reached
    assert steps <= 10
    assert [step["ratio"] for step in found.steps] == asked
    assert abs(reached - target) == min(abs(share(ratio) - target) for ratio in ratios)
    assert share(found.ratio) == reached


def test_what_no_ratio_leaves_is_refused_with_what_one_does() -> None:
    with pytest.raises(UserError, match=r"pruner.target.macs=0.1 cannot be reached: the largest ratio leaves 0.5"):
        search("macs", 0.1, lambda ratio: 1 - ratio, [0.0, 0.2, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize(("quantity", "scope", "selection"), [
    ("macs", "local", PaperSelection), ("params", "local", TorchPruningSelection), ("macs", "global", PaperSelection),
    ("params", "isomorphic", PaperSelection), ("macs", "cost_aware", PaperSelection)])
def test_no_other_ratio_gets_nearer(quantity: str, scope: str, selection: type) -> None:
    unet = tiny_unet((8, 16), groups=2)
    terms, allocation = scored(unet, 0), Allocation(0, selection(), scope=scope)
    share = size_kept(quantity, unet, DiffPruning(), allocation, terms)
    ratios = distinct_ratios(copy.deepcopy(unet), allocation)
    found = search(quantity, 0.5, share, ratios)
    grid = [i / 7 for i in range(7) if i / 7 <= ratios[-1]]
    assert abs(found.reached - 0.5) <= min(abs(share(ratio) - 0.5) for ratio in grid) + 1e-12
    report = cut(unet, DiffPruning(), replace(allocation, ratio=found.ratio), terms)
    assert getattr(report, quantity) / getattr(report, f"{quantity}_dense") == found.reached


def test_every_ratio_gives_another_removal_and_none_is_left_out() -> None:
    ratios = distinct_ratios(meta_unet(), Allocation(0))
    assert ratios == sorted(set(ratios))
    widths = (8, 16, 32)        # of the tiny UNet's groups
    removals = [tuple(width - int(width * (1 - ratio)) for width in widths) for ratio in ratios]
    assert len(set(removals)) == len(removals)
    between = [i / 1000 for i in range(1000) if i / 1000 <= ratios[-1]]
    inside = {tuple(width - int(width * (1 - ratio)) for width in widths) for ratio in between
              if all(Fraction(i, 1000) * width % 1 for width in widths for i in [round(ratio * 1000)])}
    assert inside <= set(removals)


def test_a_ratio_is_as_short_as_a_decimal_can_be() -> None:
    assert short_decimal(Fraction(1, 4), Fraction(2, 4)) == 0.3
    assert short_decimal(Fraction(1, 4), Fraction(33, 128)) == 0.251


def test_sizes_are_counted_without_storage() -> None:
    unet = tiny_unet((8, 16))
    share = size_kept("params", unet, Magnitude(), Allocation(0), layer_terms(unet, Magnitude.terms))
    before = measure(unet)
    assert 0 < share(0.5) < 1
    assert measure(unet) == before


@pytest.fixture
def tiny(config, tmp_path: Path):
    """Composes a run of a tiny model that magnitude prunes."""
    save_model(small_model(), tmp_path / "model")
    return lambda *overrides: config(f"model.checkpoint={tmp_path}/model", "pruner=magnitude", "device=cpu",
                                     "sampler.steps=4", *overrides)


def pruned(cfg) -> dict:
    run = Run(run_folder(cfg))
    score.stage(cfg, run, Tracker())
    prune.stage(cfg, run, Tracker())
    return read_json(run.prune_report)


@pytest.mark.slow
def test_a_tracker_that_keeps_images_gets_the_width_of_every_layer(tiny) -> None:
    class Keeping(Tracker):
        keeps_images, kept = True, {}

        def image(self, name: str, path: Path, step: int | None = None) -> None:
            self.kept[name] = path.read_bytes()

    run = Run(run_folder(cfg := tiny()))
    score.stage(cfg, run, Tracker())
    prune.stage(cfg, run, Keeping())
    assert Keeping.kept["widths"].startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["macs", pytest.param("params", marks=pytest.mark.slow)])
def test_the_report_says_what_was_reached(tiny, quantity: str) -> None:
    cfg = tiny(f"pruner.target.{quantity}=.6")
    report = pruned(cfg)
    target = report["target"]
    assert target["reached"] == report[quantity] / report[f"{quantity}_dense"]
    assert abs(target["reached"] - 0.6) == min(abs(step["share"] - 0.6) for step in target["steps"])
    assert report["ratio"] == target["ratio"] in [step["ratio"] for step in target["steps"]]
    assert measure(load_model(Run(run_folder(cfg)).pruned).unet).params == report["params"]


@pytest.mark.slow
def test_a_latency_target_measures_again_what_it_found(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_size(unet, dense, rounds: int = 9) -> Latency:
        params = [sum(p.numel() for p in net.parameters()) for net in (unet, dense)]
        return Latency(params[0] / params[1], 0.0, 1.0, rounds, "a clock that never errs")
    monkeypatch.setattr(prune, "latency_share", by_size)
    report = pruned(tiny("pruner.target.latency=.6"))
    target = report["target"]
    assert target["reached"] == report["params"] / report["params_dense"]
    assert target["measured"]["rounds"] == 27
    assert target["reached"] == pruned(tiny("pruner.target.params=.6"))["target"]["reached"]


def test_latency_is_the_median_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 2.0])      # the first pair warms up: .5, 1, 1.5 remain
    monkeypatch.setattr(speed, "clocked", lambda work, device: next(times))
    found = latency_share(tiny_unet((4, 8)), tiny_unet((4, 8)), rounds=3)
    assert (found.low, found.share, found.high, found.rounds) == (0.75, 1.0, 1.25, 3)


def test_a_real_evaluation_takes_time() -> None:
    found = latency_share(unet := tiny_unet((4, 8)), unet, rounds=2, batch=1)
    assert 0 < found.low <= found.share <= found.high
    assert "CPU" in found.device


def test_a_target_takes_the_ratios_place_in_the_name(config) -> None:
    cfg = config("pruner.target.macs=.5")
    assert "-T0.05-macs0.5-" in run_name(cfg)
    assert "ratio" not in science(cfg)["pruner"]
    assert run_name(cfg) == run_name(config("pruner.target.macs=.5", "pruner.ratio=.7"))
    assert run_name(cfg) != run_name(config("pruner.target.params=.5"))


@pytest.mark.parametrize(("overrides", "words"), [
    (["pruner.target.macs=.5", "pruner.target.params=.5"], "are two targets"),
    (["pruner=none", "pruner.target.macs=.5"], "its ratio is 0"),
    (["pruner.target.macs=1.5"], "pruner.target.macs=1.5 is outside its range")])
def test_targets_that_cannot_be_are_refused(config, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(config(*overrides))


@pytest.mark.slow
def test_the_cost_command_knows_targets() -> None:
    found = sizes(["pruner.target.macs=.5"])
    assert found["macs"] / found["macs_dense"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(UserError, match="decides widths by scores"):
        sizes(["pruner.scope=global"])
    with pytest.raises(UserError, match="is measured on the model itself"):
        sizes(["pruner.target.latency=.5"])
