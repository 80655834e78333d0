"""Ranking channels across groups: what goes, what stays, and that the model still runs."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffprune.models.cost import layer_costs, measure
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.pruned_network import synchronise
from diffprune.pruning import criteria
from diffprune.pruning.allocation import QUANTITIES, Allocation
from diffprune.pruning.dependency import Graph
from diffprune.pruning.scope import SCOPES, Ranked, portions_to_remove
from diffprune.pruning.selection import PaperSelection, TorchPruningSelection
from diffprune.pruning.surgery import cut, fixed_layers
from diffprune.stages import options
from tests.conftest import tiny_unet
from tests.pruning.test_heads import MODELS
from tests.pruning.test_heads import run as run_any
from tests.pruning.test_surgery import CRITERIA, run, scored


def ranked(root: str, *worth: float, size: int = 1, topology: str = "", cost: float = 0.0) -> Ranked:
    return Ranked(root, len(worth) * size, size, torch.tensor(worth, dtype=torch.float64), topology, cost)


def test_global_takes_the_least_relative_to_each_groups_mean() -> None:
    groups = [ranked("a", 1, 3, 4, 4), ranked("b", 100, 100, 100, 100)]      # relative: 1/3, 1, … and 1, 1, …
    assert portions_to_remove(groups, "global", 0.125, 0.1) == {"a": 1, "b": 0}
    assert portions_to_remove(groups, "global", 0.375, 0.1) == {"a": 2, "b": 1}       # at equal worth the earlier group


def test_isomorphic_ranks_like_with_like_as_they_are() -> None:
    groups = [ranked("a", 1, 3, topology="x"), ranked("b", 10, 20, 30, 40, topology="x"), ranked("c", 0, 0, topology="y")]
    assert portions_to_remove(groups, "isomorphic", 0.5, 0.0) == {"a": 1, "b": 2, "c": 1}


def test_a_floor_holds_in_every_group() -> None:
    groups = [ranked("a", 0, 0, 0, 0, 0, 0, 0, 0), ranked("b", 7, 8, 9, 9)]
    assert portions_to_remove(groups, "global", 0.5, 0.5) == {"a": 4, "b": 2}
    assert portions_to_remove(groups, "global", 0.9, 0.0) == {"a": 7, "b": 3}     # never the last


def test_portions_go_whole_and_none_is_passed_over() -> None:
    groups = [ranked("wide", 1, 5, size=4), ranked("narrow", 2, 3, 4, 9)]
    assert portions_to_remove(groups, "isomorphic", 0.25, 0.0) == {"wide": 0, "narrow": 0}    # 3 of 12, the first has 4
    assert portions_to_remove(groups, "isomorphic", 0.5, 0.0) == {"wide": 1, "narrow": 2}


def test_groups_without_any_score_do_not_fail() -> None:
    assert portions_to_remove([ranked("a", 0, 0)], "global", 0.5, 0.1) == {"a": 1}


def test_cost_aware_takes_the_least_worth_per_cost() -> None:
    """Relative to the means worth is .25, .75, 1.5, 1.5 and .4, .8, 1.2, 1.6; the second group's is divided by 4."""
    groups = [ranked("cheap", 1, 3, 6, 6, cost=1), ranked("dear", 10, 20, 30, 40, cost=4)]
    order = [portions_to_remove(groups, "cost_aware", ratio, 0.0) for ratio in (0.125, 0.25, 0.375, 0.5, 0.625)]
    assert [(counts["cheap"], counts["dear"]) for counts in order] == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_scores_of_another_scale_and_portions_of_another_size_leave_the_cost_aware_ranking() -> None:
    groups = [ranked("a", 1, 3, cost=1), ranked("b", 1, 3, cost=2)]
    scaled = [ranked("a", 100, 300, cost=1), ranked("b", 1, 3, cost=2)]
    wide = [ranked("a", 1, 3, size=4, cost=1), ranked("b", 1, 3, size=4, cost=2)]
    for ratio in (0.25, 0.5):
        assert portions_to_remove(groups, "cost_aware", ratio, 0.0) == portions_to_remove(scaled, "cost_aware", ratio, 0.0) \
            == portions_to_remove(wide, "cost_aware", ratio, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "dit", *(pytest.param(name, marks=pytest.mark.slow)
                                                   for name in ("conv_projection", "linear_projection"))])
def test_a_portion_saves_what_was_predicted(name: str) -> None:
    """To the last multiply-accumulate and parameter of the weights; norms and biases add less than a twentieth."""
    model, allocation = MODELS[name](), Allocation(0.5, scope="cost_aware")
    before, counted_before = layer_costs(model), measure(model).macs
    for group in Graph(model, fixed_layers(model)).groups():
        portion = allocation.portions(group, torch.arange(float(group.channels)))[0]
        predicted = [group.saved({layer: getattr(cost, quantity) for layer, cost in before.items()}, len(portion))
                     for quantity in QUANTITIES]
        group.remove(portion)
        synchronise(model)
        after, counted = layer_costs(model), measure(model).macs
        saved = [sum(getattr(before[layer], quantity) - getattr(after[layer], quantity) for layer in before)
                 for quantity in QUANTITIES]
        assert predicted == pytest.approx(saved, rel=1e-9)
        assert saved[0] <= counted_before - counted <= 1.05 * saved[0]
        before, counted_before = after, counted


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_of_channels_of_equal_worth_the_dearest_go_first(quantity: str) -> None:
    class Alike(criteria.Magnitude):
        def score(self, slices, channels, rng):
            return torch.ones(channels)

    unet = tiny_unet((16, 32))
    amounts = {layer: getattr(cost, quantity) for layer, cost in layer_costs(unet).items()}
    dearest = max(Graph(unet, fixed_layers(unet)).groups(), key=lambda group: group.saved(amounts, 1)).root
    report = cut(unet, Alike(), Allocation(0.02, scope="cost_aware", quantity=quantity), scored(unet, 0))
    assert [group["root"] for group in report.groups if group["removed"]] == [dearest]


def test_a_larger_ratio_removes_the_same_channels_and_more() -> None:
    dense = tiny_unet((16, 32))
    terms, smaller = scored(dense, 0), set()
    for ratio in (0.2, 0.4, 0.6):
        report = cut(copy.deepcopy(dense), criteria.DiffPruning(), Allocation(ratio, scope="cost_aware"), terms)
        removed = {(group["root"], channel) for group in report.groups for channel in group["removed"]}
        assert smaller < removed
        smaller = removed


def test_a_target_of_parameters_makes_them_the_cost(config) -> None:
    quantities = [options.allocation(config("pruner.scope=cost_aware", *words)).quantity
                  for words in ((), ("pruner.target.macs=.5",), ("pruner.target.params=.5",))]
    assert quantities == ["macs", "macs", "params"]


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.sampled_from([1, 2, 4]), criterion=st.sampled_from(CRITERIA), scope=st.sampled_from(list(SCOPES)),
       ratios=st.tuples(st.floats(0, 0.45), st.floats(0.5, 0.95)), floor=st.sampled_from([0.1, 0.3]),
       selection=st.sampled_from([PaperSelection, TorchPruningSelection]), seed=st.integers(0, 9))
def test_any_criterion_scope_and_ratio_gives_a_model_that_runs_reloads_and_shrinks(
        groups: int, criterion: type, scope: str, ratios: tuple[float, float], floor: float, selection: type,
        seed: int) -> None:
    dense, sizes = tiny_unet(groups=groups, seed=seed), []
    terms = scored(dense, seed)
    for ratio in ratios:
        unet = copy.deepcopy(dense)
        report = cut(unet, criterion(), Allocation(ratio, selection(), scope=scope, floor=floor), terms, seed)
        sizes.append(report.params)
        run(unet).sum().backward()
        for group in report.groups:
            assert group["after"] % group["norm_groups"] == 0 or group["after"] == group["before"]
            assert scope == "local" or group["after"] >= floor * group["before"]
    emptied = any(entry["reason"] == "a layer would be left without channels" for entry in report.skipped)
    assert sizes[0] <= report.params_dense
    # A group that the local rule would empty is left whole; the others have a floor.
    assert sizes[1] < sizes[0] or (emptied and scope == "local")
    with TemporaryDirectory() as folder:
        save_model(DiffusionModel(unet, DDIMScheduler()), Path(folder) / "model")
        loaded = load_model(Path(folder) / "model").unet
    assert torch.equal(run(loaded), run(unet))


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["equal", "whole"])
@pytest.mark.parametrize("scope", ["global", "isomorphic", "cost_aware"])
@pytest.mark.parametrize("name", MODELS)
def test_heads_and_gates_are_ranked_whole(name: str, scope: str, heads: str) -> None:
    dense = MODELS[name]()
    terms, sizes = scored(dense, 0), []
    for ratio in (0.2, 0.4, 0.6):
        model = copy.deepcopy(dense)
        report = cut(model, criteria.DiffPruning(), Allocation(ratio, heads=heads, scope=scope), terms)
        run_any(model).sum().backward()
        sizes.append(report.params)
    assert report.params_dense > sizes[0] > sizes[1] > sizes[2]


@pytest.mark.slow
def test_a_global_ranking_is_made_before_any_cut() -> None:
    """The local rule scores a group when its turn comes; a ranking needs all scores at once."""
    unet, widths = tiny_unet((16, 32)), []

    class Recording(criteria.Magnitude):
        def score(self, slices, channels, rng):
            widths.extend(s.terms["w2"].shape[1] for s in slices if not s.is_norm)
            return super().score(slices, channels, rng)

    dense = {size for m in unet.modules() if hasattr(m, "weight") and m.weight is not None for size in m.weight.shape}
    cut(unet, Recording(), Allocation(0.5, scope="global"), scored(unet, 0))
    assert set(widths) <= dense


@pytest.mark.parametrize(("option", "words"), [({"scope": "world"}, "choose one of local, global, isomorphic, cost_aware"),
                                               ({"quantity": "latency"}, "choose one of macs, params"),
                                               ({"floor": 1.0}, "floor 1.0 is outside")])
def test_what_is_no_scope_or_floor_is_refused(option: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Allocation(0.3, **option)
