"""The bench: what it times is the same work, its clock is fair, its table says what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.bench import cases, plain
from diffprune.bench.cases import CASES, Bench
from diffprune.bench.measured import lines, rate, table
from diffprune.bench.setting import SEED, Setting
from diffprune.diffusion.randomness import Stream, generator
from diffprune.evaluation.speed import PeakMemory, Timing, time_in_turn
from diffprune.models.device import computes_bf16
from diffprune.models.formats.ddim import convert_ddim
from diffprune.pruning.gradients import CalibrationBatch, ScoringPass
from diffprune.runtime.errors import UserError
from diffprune.training.trainer import draw
from tests.bench.ddim_denoiser import Denoiser, denoiser
from tests.conftest import ROOT

COMMAND = (sys.executable, "-m", "diffprune.bench")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting.of(["schedule.dropout=0", "device=cpu"], batch=4)


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []
    timings = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU, "test")
    assert calls == ["a", "b"] * 4
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]


def test_ratios_are_of_rounds_not_of_medians() -> None:
    slow_machine = Timing([1.0, 10.0, 1.0], 0), Timing([0.5, 5.0, 0.5], 0)
    assert slow_machine[1].speedup_over(slow_machine[0]) == 2


def test_a_baseline_that_did_a_part_counts_for_the_whole() -> None:
    plainest, ours = lines("case", {"plain": Timing([1.0], 0), "ours": Timing([2.0], 0)}, "plain", times=9)
    assert (plainest.seconds, plainest.times_as_fast) == (9, 1)
    assert (ours.seconds, ours.times_as_fast) == (2, 4.5)


@pytest.mark.slow
def test_the_peak_is_what_came_to_what_was_in_use_before() -> None:
    already = np.ones(80_000_000)   # 640 MB
    peak = PeakMemory(CPU)
    used = np.ones(40_000_000)      # 320 MB
    del used
    assert 250 < peak.megabytes() < 400
    del already


@pytest.mark.parametrize(("seconds", "first", "call"), [(0.5, 11.0, 22), (0.5, 11.25, 22), (0.5, 0.5, 1), (2.0, 0.5, None)])
def test_compiling_pays_from_the_call_at_which_it_has_taken_less(seconds: float, first: float, call: int | None) -> None:
    """11 + 21 / 2 < 22 x 1, and 11 + 20 / 2 = 21 x 1."""
    eager = Timing([1.0], 0, first=1.0)
    assert Timing([seconds], 0, first=first).pays_from(eager) == call


def test_a_rate_is_what_was_multiplied_in_a_median_second() -> None:
    assert rate(12_000_000_000, Timing([4.0, 1.0, 2.0], 0)) == "6 GMAC/s"


def test_the_product_of_matrices_is_the_size_that_its_rate_is_of(setting: Setting) -> None:
    for work in cases.arithmetic_ways(setting).values():
        assert work().shape == (cases.SIDE, cases.SIDE)


def test_a_compiled_way_is_beside_itself_uncompiled() -> None:
    timings = {"dense, fp32": Timing([1.0], 0, 1.0), "pruned, fp32, channels_last": Timing([0.8], 0, 1.0),
               "pruned, fp32, compiled": Timing([0.4], 0, 5.0)}
    *others, compiled = lines("case", timings, "dense, fp32")
    assert (compiled.first_call, compiled.pays_from, compiled.times_as_fast) == (5.0, 12, 2.5)
    assert all("first_call" not in line.record() for line in others)
    assert "pays from call" in table([line.record() for line in (*others, compiled)])
    assert "pays from call" not in table([line.record() for line in others])


def test_what_is_done_beside_a_step_is_counted_as_often_as_a_step_does_it(setting: Setting) -> None:
    bench = Bench(setting, 1, 1, 1, "cifar-cnn")
    found = {line.way: line for line in bench.overhead()}
    assert list(found) == ["draws", "average", "log", "state", "together"]
    assert found["together"].seconds == pytest.approx(sum(line.seconds for way, line in found.items() if way != "together"))
    assert found["state"].note.endswith("% of a step, once in 100")


@pytest.mark.parametrize("dropout", [0, 0.1])
def test_the_plain_step_and_the_engines_are_one_step(dropout: float) -> None:
    """The same draws, dropout, clip and optimiser: the weights after one step agree."""
    setting = Setting.of([f"schedule.dropout={dropout}", "device=cpu"], batch=4)
    recipe, x_0 = setting.recipe, setting.images(4)
    unet, process = setting.copy_of(setting.dense).unet, setting.dense.process
    script = plain.PlainTraining(unet, process, recipe)
    t, eps = draw(SEED, 0, 4, setting.dense.shape, 1000)
    torch.manual_seed(generator(SEED, Stream.DROPOUT, 0).initial_seed())
    predicted = script.unet(process.add_noise(x_0, eps, t), t).sample
    script.update((predicted - eps).square().sum((1, 2, 3)).mean())
    works = cases.training_ways(setting)
    formats = ["fp32", "bf16"] if computes_bf16(CPU) else ["fp32"]
    assert list(works) == ["plain", *formats, *(f"{name}, channels_last" for name in formats)]
    trained = works["fp32"].func.__self__
    works["fp32"]()
    for ours, theirs in zip(trained.weights, script.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=recipe.lr / 10)


def test_the_plain_walk_sums_the_gradients_of_the_walk(setting: Setting) -> None:
    model, x_0 = setting.copy_of(setting.dense), setting.images(4)
    torch.manual_seed(0)
    plain.plain_pass(model.unet, model.process, x_0, 3)
    expected = model.unet.conv_in.weight.grad.clone()
    torch.manual_seed(0)
    total = ScoringPass(model, CalibrationBatch(x_0, torch.randn_like(x_0))).accumulate(torch.ones(3))
    torch.testing.assert_close(total.gradients["conv_in"], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_one_walk_cuts_by_the_gradients_of_each_plain_walk(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise for both: at every threshold, longest last, the weights hold the same sums."""
    held: dict[int, list[torch.Tensor]] = {}
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    monkeypatch.setattr(cases, "cells", lambda _, model, criteria, ratios: held.setdefault(len(criteria), []).append(
        model.unet.conv_in.weight.grad.clone()))
    for work in cases.scoring_ways(setting, (6, 4, 2)).values():
        work()
    plainly, together = held[1], held[len(cases.CRITERIA)]
    assert len(plainly) == len(together) == 3
    for ours, theirs in zip(together, reversed(plainly), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_every_way_of_sampling_draws_the_same_images(setting: Setting) -> None:
    works, drawn = cases.sampling_ways(setting, 3)
    for work in works.values():
        work()
    assert set(drawn) == set(works)
    for name, images in drawn.items():
        if "bf16" not in name:
            assert np.abs(images.astype(int) - drawn["plain"].astype(int)).max() <= 1


def test_the_plain_features_are_those_from_memory(setting: Setting, tmp_path: Path) -> None:
    from diffprune.evaluation.features import load_extractor
    extractor = load_extractor("cifar-cnn", None)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    plain.plain_files(images, tmp_path)
    np.testing.assert_allclose(plain.plain_features(extractor.network, tmp_path, 2), extractor.features(images), atol=1e-4)


@pytest.mark.slow
def test_pytorch_fid_is_timed_with_its_own_network(setting: Setting, inception_file: Path, tmp_path: Path) -> None:
    from diffprune.evaluation.features import load_extractor
    extractor = load_extractor("inception", str(inception_file))
    works = cases.score_ways(setting, extractor, str(inception_file), 3, tmp_path)
    assert type(works["pytorch-fid, from files"].args[1]).__module__ == "pytorch_fid.inception"
    mean, covariance = works["pytorch-fid, from files"]()
    features = plain.plain_features(extractor.network, tmp_path, 2)
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-3)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), atol=1e-3)


@pytest.mark.slow
def test_the_command_measures_every_case_and_writes_what_it_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "dataset=digits", "device=cpu", "--batch", "2", "--rounds", "1", "--steps", "2", "--images", "8",
         "--features", "digits-cnn", "--json", str(tmp_path / "b.json")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    known = json.loads((tmp_path / "b.json").read_text())
    cases_measured = {line["case"].split()[0] for line in known["lines"]}
    assert cases_measured == {"product", "fine-tuning", "beside", "scoring", "sampling", "digits-cnn", "loading", "one"}
    assert all(line["seconds"] > 0 for line in known["lines"])
    assert known["command"].startswith("python -m diffprune.bench dataset=digits device=cpu --batch 2 --rounds 1")
    assert "threads" in known["machine"]["processor"]
    assert "torch" in known["versions"]


def test_a_rate_is_compared_with_that_of_a_product_in_the_same_format(setting: Setting) -> None:
    bench = Bench(setting, 1, 1, 1, "cifar-cnn")
    products = {"fp32": Timing([2.0]), "bf16": Timing([0.5])}
    object.__setattr__(bench, "products", products)
    macs = cases.SIDE ** 3
    for way, share in (("plain", 50), ("dense, fp32, channels_last", 50), ("bf16", 12), ("pruned, bf16, compiled", 12)):
        assert bench.rate(macs, Timing([4.0]), way).endswith(f", {share} % of a product's")


@torch.no_grad()
def test_the_plain_network_computes_what_the_model_does_that_takes_its_weights() -> None:
    network = Denoiser(32, (1, 2), blocks=1, attention=8, side=16).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    ours = convert_ddim(network.state_dict(), 16).unet
    torch.testing.assert_close(ours(x, t).sample, network(x, t), rtol=1e-4, atol=1e-5)
    assert sum(weight.numel() for weight in denoiser().parameters()) == 35_746_307      # as the paper's CIFAR-10 model


def test_another_implementation_is_what_all_ways_are_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "other.py"
    file.write_text("from tests.bench.ddim_denoiser import Denoiser\n\n\ndef denoiser():\n"
                    "    return Denoiser(32, (1, 1), blocks=1, attention=4, side=8, channels=1)\n")
    setting = Setting.of(["device=cpu"], 2, against=file)
    bench = Bench(setting, 1, 2, 1, "cifar-cnn")
    for case in (bench.training, bench.sampling, bench.latency):
        measured: dict[str, list] = {}
        for line in case():
            measured.setdefault(line.case, []).append(line)
        assert all(found[0].way == "against" and found[0].times_as_fast == 1 for found in measured.values())
    file.write_text("denoiser = 3")
    with pytest.raises(UserError, match="has no function denoiser"):
        Setting.of(["device=cpu"], 2, against=file)
    with pytest.raises(UserError, match="there is no such file"):
        Setting.of(["device=cpu"], 2, against=tmp_path / "absent.py")


@pytest.mark.slow
def test_an_unknown_case_is_named() -> None:
    done = subprocess.run([*COMMAND, "--only", "speed"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: --only speed is not known: choose of {', '.join(CASES)}"
