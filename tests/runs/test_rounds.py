"""Pruning in rounds: the widths and the steps of one go, reached in several, and resumed as exactly."""

import copy
import hashlib
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from omegaconf import DictConfig
from torch import Tensor, nn

from diffprune.config.naming import run_folder, run_name
from diffprune.config.validation import check
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import ASSETS, load_model, save_model
from diffprune.pipeline import reproduce
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Magnitude
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS
from diffprune.pruning.surgery import cut, shapes
from diffprune.runs.run import Round, Run
from diffprune.runtime.checksums import checksum_file
from diffprune.runtime.errors import UserError
from diffprune.runtime.interrupt import Interrupted
from diffprune.sampling.draw import one_thread
from diffprune.stages import finetune
from diffprune.tracking.tracker import Tracker
from diffprune.training import trainer as training
from tests.conftest import tiny_unet, tuned
from tests.pruning.test_heads import MODELS, gated
from tests.training.test_finetune import SHORT, ask, pruned
from tests.training.test_processes import ended, start

TENTHS = (.1, .2, .3, .4, .5, .6, .7)


def cut_in(unet: nn.Module, ratio: float, rounds: int, change: float = .01, **how) -> PruneReport:
    """Prunes `unet` in that many rounds, after each of which its weights change somewhat, as healing has it."""
    rng, report = torch.Generator().manual_seed(0), None
    for index in range(1, rounds + 1):
        allocation = Allocation(Round(index, rounds).ratio(ratio), **how)
        report = cut(unet, Magnitude(), allocation, layer_terms(unet, Magnitude.terms), earlier=report)
        for p in unet.parameters():
            p.data += change * torch.randn(p.shape, generator=rng)
    return report


def assert_as_in_one_go(model: nn.Module, ratio: float, rounds: int, **how) -> tuple[nn.Module, PruneReport]:
    """What comes of the rounds is for further looks."""
    once, often = copy.deepcopy(model), copy.deepcopy(model)
    one, many = cut_in(once, ratio, 1, **how), cut_in(often, ratio, rounds, **how)
    assert shapes(often) == shapes(once)
    assert (many.layers, many.params, many.macs) == (one.layers, one.params, one.macs)
    assert (many.params_dense, many.macs_dense, many.ratio) == (one.params_dense, one.macs_dense, ratio)
    assert many.skipped == one.skipped
    for wide, narrow in zip(one.groups, many.groups, strict=True):
        assert narrow | {"removed": len(narrow["removed"])} == wide | {"removed": len(wide["removed"])}
    return often, many


@pytest.mark.slow
def test_two_rounds_end_at_the_widths_of_one_and_number_channels_as_in_the_dense_model() -> None:
    dense = tiny_unet()
    unet, report = assert_as_in_one_go(dense, .5, 2, change=0)
    (entry,) = [group for group in report.groups if "conv_in" in group["layers"]]
    kept = [channel for channel in range(entry["before"]) if channel not in entry["removed"]]
    assert torch.equal(unet.conv_in.weight, dense.conv_in.weight[kept])
    assert [each["ratio"] for each in report.rounds] == [.25, .5]
    assert report.rounds[0]["params"] > report.rounds[1]["params"] == report.params


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "rounds"), [(.5, 2), *((ratio, 3) for ratio in TENTHS)])
def test_any_number_of_rounds_ends_at_the_widths_of_one(ratio: float, rounds: int) -> None:
    assert_as_in_one_go(tiny_unet(), ratio, rounds)
    assert_as_in_one_go(tiny_unet((16, 24), groups=8), ratio, rounds, round_to=4)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "rounds"), [(.1, 2), (.3, 2), (.5, 3), (.7, 2)])
def test_so_it_is_with_the_digits_model(ratio: float, rounds: int) -> None:
    assert_as_in_one_go(load_model(ASSETS / "ddpm_digits").unet, ratio, rounds)


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["equal", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_so_it_is_with_heads_and_about_so_with_gates(name: str, heads: str) -> None:
    once, often = MODELS[name](), MODELS[name]()
    one, many = cut_in(once, .5, 1, heads=heads), cut_in(often, .5, 2, heads=heads)
    gates = gated(one)
    for wide, narrow in zip(one.groups, many.groups, strict=True):
        if wide["root"] in gates:       # (1 - r)² of the units stay, give or take what meets by chance
            assert abs(narrow["after"] - wide["after"]) < .15 * wide["before"]
        else:
            assert narrow | {"removed": 0} == wide | {"removed": 0}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("channels", "blocks", "heads"), [(64, 4, 1), (96, 32, 1), (24, 8, 1), (64, 8, 8)])
def test_no_rounding_adds_up(selection: str, channels: int, blocks: int, heads: int) -> None:
    """64 channels in 4 blocks keep 44 at ratio .3; a ratio of a ratio would leave 48 in two rounds."""
    def left(ratio: float, width: int, previous: PruneReport | None) -> int:
        now = SimpleNamespace(root="x", outputs=["x"], channels=width, gated=False, obstacle=None, blocks=blocks,
                              described_blocks="", heads=heads * width // channels if kind == "whole" else heads)
        allocation = Allocation(ratio, SELECTIONS[selection](), kind, previous=previous)
        return width - len(allocation.choose(now, torch.rand(width))[0])

    for kind in ("equal", "whole"):
        for ratio in TENTHS:
            for rounds in (2, 5):
                width, previous = channels, None
                for index in range(1, rounds + 1):
                    asked = Round(index, rounds).ratio(ratio)
                    width = left(asked, width, previous)
                    group = {"root": "x", "before": channels, "heads": {"before": heads}}
                    previous = PruneReport(asked, 1, 1, 1, 1, {}, [group])
                assert width == left(ratio, channels, None), (ratio, rounds, kind)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_rounds_share_all_steps_and_come_to_the_whole_ratio(of: int) -> None:
    parts = [Round(index, of) for index in range(1, of + 1)]
    for steps in (7, 100, 299):
        own = [part.steps(steps) for part in parts]
        assert sum(own) == steps
        assert [part.steps_before(steps) for part in parts] == [sum(own[:index]) for index in range(of)]
        assert min(own) >= 1
    for ratio in TENTHS:
        assert parts[-1].ratio(ratio) == ratio


class Steps(Tracker):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def log(self, values: dict, step: int) -> None:
        if "loss" in values:
            self.seen.append(step)


def test_a_later_round_draws_on_where_the_one_before_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, usual, tracker = [], training.draw, Steps()

    def draw(seed: int, step: int, *rest: object) -> tuple[Tensor, Tensor]:
        drawn.append(step)
        return usual(seed, step, *rest)
    monkeypatch.setattr(training, "draw", draw)
    run = Run(pruned(tmp_path).folder, Round(2, 2))
    finetune.stage(tuned(*SHORT), run, tracker)
    assert drawn == [4, 5, 6, 7]
    assert [json.loads(line)["step"] for line in run.progress.read_text().splitlines()] == [2, 4]
    assert tracker.seen == [6, 8]


@pytest.fixture
def asked(config, tmp_path: Path):
    """A small dense model pruned in two rounds, in a folder of its own each time."""
    dense = tmp_path / "dense"
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), dense)

    def composed(where: str, *overrides: str) -> tuple[DictConfig, Run]:
        cfg = config(*options(dense, tmp_path / where), *overrides)
        check(cfg)
        return cfg, Run(run_folder(cfg))
    return composed


def options(dense: Path, folder: Path) -> tuple[str, ...]:
    return ("model=diffusers", f"model.checkpoint={dense}", "pruner=magnitude", *SHORT, "schedule.save_every=1",
            "schedule.rounds=2", "sampler.steps=2", "sampler.processes=1", "evaluate.images=4", "until=finetune",
            f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", "device=cpu", "logger=none")


def weights(run: Run) -> list[str]:
    """Digests of the models that a run of two rounds makes on its way."""
    first = Run(run.folder / "rounds" / "1")
    return [hashlib.sha256((model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
            for model in (first.pruned, first.finetuned, run.pruned, run.finetuned)]


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6])
def test_a_run_stopped_in_either_round_ends_as_one_that_never_was(asked, before_step, step: int) -> None:
    (cfg, whole), (other, stopped) = asked("whole"), asked("stopped")
    reproduce(cfg, whole)
    before_step(step, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        reproduce(other, stopped)
    assert (stopped.folder / "rounds" / "1" / "finetuned").exists() == (step == 6)
    reproduce(other, stopped)
    assert weights(stopped) == weights(whole)
    assert len(set(weights(whole))) == 4
    before = {file: file.stat().st_mtime_ns for file in stopped.folder.rglob("*")}
    reproduce(other, stopped)
    assert {file: file.stat().st_mtime_ns for file in stopped.folder.rglob("*")} == before


@pytest.mark.slow
def test_every_stage_reads_the_run_as_one_of_one_round(asked) -> None:
    (cfg, run), (other, single) = asked("twice", "until=sample"), asked("once", "until=prune", "schedule.rounds=1")
    reproduce(cfg, run)
    reproduce(other, single)
    report, one = PruneReport.read(run.prune_report), PruneReport.read(single.prune_report)
    assert (report.layers, report.params_dense, report.params) == (one.layers, one.params_dense, one.params)
    assert [each["ratio"] for each in report.rounds] == [.15, .3]
    assert shapes(load_model(run.finetuned).unet) == shapes(load_model(single.pruned).unet)
    assert run.images.exists()
    (first,) = run.earlier
    checksum_file(first.progress).unlink()
    first.progress.write_text('{"step": 4, "seconds": 100.0}\n')
    assert run.seconds()["finetune"] > 100
    assert set(run.seconds()) == {"score", "prune", "finetune", "sample"}


@pytest.mark.slow
def test_a_run_that_is_to_end_early_ends_in_its_last_round(asked) -> None:
    cfg, run = asked("early", "until=score")
    reproduce(cfg, run)
    assert run.scores.exists()
    assert not run.pruned.exists()
    assert run.earlier[0].finetuned.is_dir()


@pytest.mark.slow
def test_two_processes_heal_every_round_together(asked, tmp_path: Path) -> None:
    cfg, one = asked("one", "schedule.accumulate=2")
    with one_thread(torch.device("cpu")):     # as `start` gives to each process
        reproduce(cfg, one)
    command = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "diffprune")
    code, said = ended(start(*command, *options(tmp_path / "dense", tmp_path / "two")))
    assert code == 0, said
    assert "finetune, round 1 of 2 …" in said
    _, two = asked("two")
    assert weights(two) == weights(one)


@pytest.mark.parametrize(("overrides", "words"), [
    (("schedule.rounds=0",), "schedule.rounds=0 is outside"), (("schedule.steps=0",), "schedule.steps=0"),
    (("schedule.steps=2",), "give schedule.steps=3 or more"), (("pruner.ratio=0",), "removes nothing"),
    (("pruner.reinitialise=true",), "pruner.reinitialise"), (("model.checkpoint=null",), "model.checkpoint=null"),
    (("pruner.scope=global",), "pruner.scope=global"), (("pruner.scope=cost_aware",), "pruner.scope=cost_aware"),
    (("pruner.target.macs=.5",), "pruner.target")])
def test_what_rounds_do_not_go_with_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as error:
        check(tuned("schedule.rounds=3", *overrides))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_pre_training_has_no_rounds(config) -> None:
    with pytest.raises(UserError, match=r"schedule.rounds=3 does not go with pruner=none"):
        check(config("schedule.rounds=3", "experiment=pretrain_digits"))


def test_several_rounds_are_in_the_readable_part_of_the_name() -> None:
    assert "rounds" not in run_name(tuned())
    assert "-finetune_digits-rounds2-s0-" in run_name(tuned("schedule.rounds=2"))


@pytest.mark.parametrize("scope", ["global", "isomorphic", "cost_aware"])
def test_scopes_beyond_the_local_one_know_no_rounds(scope: str) -> None:
    with pytest.raises(ValueError, match=f"scope {scope} has no rounds"):
        Allocation(.3, scope=scope, previous=PruneReport(.1, 1, 1, 1, 1, {}, []))
