"""The method gives what the original code gave on the same checkpoint (tolerances: the reference's README)."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffprune.diffusion.process import ddim, quad_timesteps, uniform_timesteps
from diffprune.diffusion.randomness import generator
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.formats.read import read_model
from diffprune.pruning import criteria
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.dependency import Graph
from diffprune.pruning.gradient_cache import GradientCache
from diffprune.pruning.gradients import CalibrationBatch, ScoringPass
from diffprune.pruning.importance import score
from diffprune.pruning.scores import Scores
from diffprune.pruning.surgery import cut
from diffprune.pruning.timesteps import Threshold

CRITERIA = {"magnitude": criteria.Magnitude, "taylor": criteria.DiffPruning, "diff_pruning": criteria.DiffPruning,
            "first_order_taylor": criteria.FirstOrderTaylor, "second_order_taylor": criteria.SecondOrderTaylor}
WITH_GRADIENTS = ("taylor_r0.5", "diff_pruning_T0.05_r0.5", "diff_pruning_T0.1_r0.5",
                  "first_order_taylor_r0.5", "second_order_taylor_r0.5", "diff_pruning_T0.05_r0.3")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def expected(oracle: Path) -> dict[str, Tensor]:
    return load_file(oracle / "ddim_tiny" / "expected.safetensors")


@pytest.fixture(scope="module")
def settings(oracle: Path) -> dict[str, dict]:
    return {s["key"]: s for s in json.loads((oracle / "ddim_tiny" / "expected.json").read_text())["settings"]}


@pytest.fixture(scope="module")
def model(oracle: Path) -> DiffusionModel:
    return read_model(oracle / "ddim_tiny" / "model.safetensors", resolution=16)


@pytest.fixture(scope="module")
def batch(expected: dict[str, Tensor]) -> CalibrationBatch:
    return CalibrationBatch(expected["images"].float(), expected["noise"].float())


@pytest.fixture(scope="module")
def scored(model: DiffusionModel, batch: CalibrationBatch,
           tmp_path_factory: pytest.TempPathFactory) -> dict[float, Scores]:
    """Every gradient term at each threshold of the reference, from one scoring pass."""
    class AllTerms(criteria.DiffPruning):
        terms = criteria.TERMS

    thresholds = [Threshold(T) for T in (0.0, 0.05, 0.1)]
    cache = GradientCache(tmp_path_factory.mktemp("gradients"), later=thresholds)
    return {policy.threshold: score(model, AllTerms(), batch, policy, cache=cache) for policy in thresholds}


def test_forward(model: DiffusionModel, expected: dict[str, Tensor]) -> None:
    with torch.no_grad():
        out = model.predict(expected["x_T"], torch.full((len(expected["x_T"]),), 10))
    assert relative(out, expected["forward_t10"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("spacing", "name"), [(quad_timesteps, "quad"), (uniform_timesteps, "uniform")])
def test_samples(model: DiffusionModel, expected: dict[str, Tensor], spacing, name: str) -> None:
    with torch.no_grad():
        images = ddim(model.predict, expected["x_T"], spacing(20, 1000), model.process)
    assert relative(images, expected[f"ddim_{name}_20"]) < 1e-3


def test_loss_of_the_first_timesteps(model: DiffusionModel, batch: CalibrationBatch, expected: dict[str, Tensor]) -> None:
    scoring_pass = ScoringPass(model, batch, per_evaluation=15)
    with torch.no_grad():
        loss = torch.cat([scoring_pass.losses(timesteps) for timesteps in torch.arange(60).split(15)])
    torch.testing.assert_close(loss, expected["loss_per_timestep"][:60], rtol=1e-4, atol=0)


@pytest.mark.slow
def test_loss_per_timestep(scored: dict[float, Scores], expected: dict[str, Tensor]) -> None:
    loss = torch.from_numpy(scored[0.0].losses.loss)
    assert relative(loss, expected["loss_per_timestep"]) < 1e-5
    torch.testing.assert_close(loss, expected["loss_per_timestep"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("key", ["magnitude_r0.5", *(pytest.param(key, marks=pytest.mark.slow) for key in WITH_GRADIENTS)])
def test_setting(key: str, model: DiffusionModel, expected: dict[str, Tensor], settings: dict,
                 request: pytest.FixtureRequest) -> None:
    setting = settings[key]
    if setting["gradient_steps"]:
        scores = request.getfixturevalue("scored")[setting["threshold"] or 0.0]
        assert scores.losses.kept == setting["gradient_steps"]
    else:
        scores = score(model, criteria.Magnitude())
    terms = scores.terms
    pruned = DiffusionModel(copy.deepcopy(model.unet), model.scheduler)
    criterion, inverse = CRITERIA[setting["criterion"]](), originals(model)

    for group in Graph(pruned.unet, ["conv_out"]).groups():
        importance = criterion.score(group.slices({t: terms[t] for t in criterion.terms}), group.channels, generator(0))
        reference = member_of(expected, f"{key}/importance/", [inverse[layer] for layer in group.outputs])
        assert reference is None or relative(importance, reference) < 1e-4, group.root

    report = cut(pruned.unet, criterion, Allocation(setting["ratio"]), terms)
    removed = {name.removeprefix(f"{key}/removed/"): tensor.tolist() for name, tensor in expected.items()
               if name.startswith(f"{key}/removed/") and len(tensor)}
    ours = {}
    for group in report.groups:
        names = [inverse[layer] for layer in group["layers"]]
        if group["removed"]:
            ours[next(name for name in names if name in removed)] = group["removed"]
    assert ours == {name: sorted(channels) for name, channels in removed.items()}
    assert report.params == setting["params"]
    assert report.macs == pytest.approx(setting["macs"], rel=2e-3)
    widths = {f"{inverse[layer]}.weight": shape["after"] for layer, shape in report.layers.items()}
    for name, shape in setting["shapes"].items():
        assert widths[name] == shape[:len(widths[name])], name
    with torch.no_grad():
        out = pruned.predict(expected["x_T"], torch.full((len(expected["x_T"]),), 10))
        images = ddim(pruned.predict, expected["x_T"], quad_timesteps(20, 1000), pruned.process)
    assert relative(out, expected[f"{key}/forward_t10"]) < 1e-5
    assert relative(images, expected[f"{key}/ddim_quad_20"]) < 1e-3


def originals(model: DiffusionModel) -> dict[str, str]:
    """{layer of the UNet: its original name}."""
    from diffprune.models.formats.ddim import original_name
    levels = len(model.unet.config.block_out_channels)
    return {key.removesuffix(".weight"): original_name(key, levels).removesuffix(".weight")
            for key in model.unet.state_dict() if key.endswith(".weight")}


def member_of(expected: dict[str, Tensor], prefix: str, names: list[str]) -> Tensor | None:
    """The reference's tensor for the group that one of the layers `names` is the root of."""
    return next((expected[prefix + name] for name in names if prefix + name in expected), None)
