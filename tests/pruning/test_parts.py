"""Parts of a network that are pruned, kept, or pruned at a ratio of their own."""

import copy
from dataclasses import asdict

import pytest

import diffprune
from diffprune.config.naming import run_folder, run_name
from diffprune.config.validation import check
from diffprune.pipeline import reproduce
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Random
from diffprune.pruning.parts import Parts, fits
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.surgery import cut
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from tests.conftest import tiny_unet

UNET = tiny_unet((8, 16))


def pruned(parts: Parts, ratio: float = 0.5, **options) -> PruneReport:
    return diffprune.prune(copy.deepcopy(UNET), criterion="magnitude", allocation=Allocation(ratio, parts=parts, **options))


def out_channels(report: PruneReport) -> dict[str, tuple[int, int]]:
    """{layer: its out-channels before and after}."""
    return {name: (shapes["before"][0], shapes["after"][0]) for name, shapes in report.layers.items()}


def test_a_pattern_is_a_layers_name_or_a_modules_that_holds_it() -> None:
    layer = "down_blocks.1.resnets.0.conv1"
    assert all(fits(layer, [pattern]) for pattern in (layer, "down_blocks", "down_blocks.1", "*.conv1", "*.resnets", "*1"))
    assert not any(fits(layer, [pattern]) for pattern in ("down_blocks.10", "down", "conv1", "Down_blocks", "*.conv2"))


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic", "cost_aware"])
def test_kept_layers_keep_their_out_channels_and_the_others_lose_theirs(scope: str) -> None:
    report, whole = pruned(Parts(keep=("mid_block", "conv_in")), scope=scope), pruned(Parts(), scope=scope)
    widths = out_channels(report)
    assert all(before == after for name, (before, after) in widths.items() if fits(name, ("mid_block", "conv_in")))
    assert report.params_dense > report.params > whole.params
    kept = [entry for entry in report.skipped if "pruner.only or pruner.keep" in entry["reason"]]
    assert {entry["layer"] for entry in kept} == {
        group["root"] for group in report.groups if any(fits(name, ("mid_block", "conv_in")) for name in group["layers"])}


@pytest.mark.parametrize("scope", ["local", "global"])
def test_only_the_chosen_layers_lose_out_channels(scope: str) -> None:
    widths = out_channels(pruned(Parts(only=("up_blocks.*.resnets",)), scope=scope))
    narrowed = {name for name, (before, after) in widths.items() if after < before and "norm" not in name}
    assert narrowed
    assert all(fits(name, ("up_blocks.*.resnets",)) for name in narrowed)


def test_parts_that_say_nothing_change_nothing() -> None:
    assert pruned(Parts(only=("*",))) == pruned(Parts()) == pruned(Parts(ratios={"*": 0.5}))


def test_a_group_takes_the_least_ratio_of_its_layers() -> None:
    report, whole = pruned(Parts(ratios={"mid_block": 0.25, "conv_in": 0.0})), pruned(Parts())
    for own, other in zip(report.groups, whole.groups, strict=True):
        layers = own["layers"]
        if any(fits(name, ("conv_in",)) for name in layers):
            assert own["removed"] == []
        elif any(fits(name, ("mid_block",)) for name in layers):
            assert len(own["removed"]) == pytest.approx(own["before"] / 4, abs=own["norm_groups"])
        else:
            assert own["after"] == other["after"]
    assert len({tuple(group["removed"]) for group in report.groups}) > 2


def test_of_several_ratios_the_last_counts() -> None:
    parts = Parts(ratios={"*": 0.1, "mid_block": 0.4, "mid_block.resnets.0": 0.2})
    assert [parts.ratio([name], 0.5) for name in ("conv_in", "mid_block.x", "mid_block.resnets.0.conv1")] == [0.1, 0.4, 0.2]
    assert Parts().ratio(["conv_in"], 0.5) == 0.5


@pytest.mark.parametrize("parts", [Parts(only=("midblock",)), Parts(keep=("midblock",)), Parts(ratios={"midblock": 0.1})])
def test_a_pattern_that_fits_no_layer_is_refused_before_the_scoring_pass(parts: Parts) -> None:
    with pytest.raises(ValueError, match=r"has midblock, which fits no layer.*conv_in"):
        pruned(parts)
    with pytest.raises(UserError, match="has midblock, which fits no layer"):
        cut(copy.deepcopy(UNET), Random(), Allocation(0.5, parts=parts))


def test_ratios_that_contradict_other_options_are_refused() -> None:
    for options in ({"ratio": 0.5, "scope": "global"}, {"ratio": 0.0}):
        with pytest.raises(ValueError, match="ratios of parts go with"):
            Allocation(parts=Parts(ratios={"mid_block": 0.1}), **options)
    with pytest.raises(ValueError, match=r"mid_block: 1 is outside \[0, 1\)"):
        Parts(ratios={"mid_block": 1.0})


@pytest.mark.parametrize(("overrides", "message"), [
    (["pruner.ratios={mid_block: 1.5}"], "pruner.ratios.mid_block=1.5 is outside its range"),
    (["pruner.ratios=.5"], "gives no ratios"), (["pruner.ratios={mid_block: half}"], "gives no ratios"),
    (["pruner.ratios={mid_block: .1}", "pruner.scope=global"], "leave one out"),
    (["pruner.ratios={mid_block: .1}", "pruner.target.macs=.5"], "leave one out"),
    (["pruner.ratios={mid_block: .1}", "schedule.rounds=2"], "which are those of a single round")])
def test_a_run_refuses_them_when_it_is_composed(overrides: list[str], message: str, config) -> None:
    with pytest.raises(UserError, match=message):
        check(config("pruner=magnitude", *overrides))


def test_a_run_without_parts_keeps_its_name(config) -> None:
    plain = run_name(config("pruner=magnitude"))
    assert run_name(config("pruner=magnitude", "pruner.keep=[]", "pruner.only=null", "pruner.ratios=null")) == plain
    named = [run_name(config("pruner=magnitude", option)) for option in (
        "pruner.keep=[mid_block]", "pruner.only=[mid_block]", "pruner.ratios={mid_block: .1}")]
    assert len({plain, *named}) == 4
    assert all("-r0.3-parts-" in name for name in named)


@pytest.mark.slow
def test_a_run_prunes_its_parts_as_the_library_does(config) -> None:
    cfg = config("pruner=magnitude", "pruner.keep=[mid_block]", "pruner.ratios={down_blocks.0: .5,up_blocks: .2}",
                 "schedule=none", "until=prune")
    reproduce(cfg, run := Run(run_folder(cfg)))
    pipeline = diffprune.load_pipeline("shipped:ddpm_digits")
    parts = Parts(keep=("mid_block",), ratios={"down_blocks.0": 0.5, "up_blocks": 0.2})
    report = diffprune.prune(pipeline, criterion="magnitude", allocation=Allocation(0.3, parts=parts))
    assert asdict(report) == asdict(PruneReport.read(run.prune_report))


@pytest.mark.slow
def test_parts_are_kept_in_every_round(config) -> None:
    cfg = config("pruner=magnitude", "pruner.keep=[mid_block]", "schedule.rounds=2", "schedule.steps=2", "schedule.batch=4",
                 "until=finetune")
    reproduce(cfg, run := Run(run_folder(cfg)))
    widths = out_channels(PruneReport.read(run.prune_report))
    assert all(before == after for name, (before, after) in widths.items() if fits(name, ("mid_block",)))
    assert widths["down_blocks.0.resnets.0.conv1"][1] < widths["down_blocks.0.resnets.0.conv1"][0]
