"""Compensation: what was cut is put into the weights that are left, layer by layer, in closed form."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import diffprune
from diffprune.config.naming import run_folder, run_name
from diffprune.config.validation import check
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning import compensation
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.compensation import Batch, NarrowedLayer, NoisedImages, Regression, compensate, positions
from diffprune.pruning.criteria import Magnitude
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.surgery import cut
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json
from diffprune.stages import prune, score
from diffprune.tracking.tracker import Tracker
from tests.conftest import tiny_unet

SCHEDULER = DDIMScheduler(num_train_timesteps=50)


def pruned(dense: DiffusionModel, ratio: float = 0.5) -> tuple[DiffusionModel, dict[str, Tensor]]:
    """A pruned copy, and which channels each of its layers has left."""
    model, kept = copy.deepcopy(dense), positions(dense.unet)
    cut(model.unet, Magnitude(), Allocation(ratio), layer_terms(model.unet, Magnitude().terms), kept=kept)
    return model, kept


def images(model: DiffusionModel, count: int = 96, seed: int = 0) -> NoisedImages:
    """Smooth images, whose pixels depend on each other as those of photographs do."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.randn(count, model.shape[0], 2, 2, generator=rng)
    return NoisedImages.draw(model, nn.functional.interpolate(small, size=model.shape[1:], mode="bilinear").tanh(), seed)


def distance(one: DiffusionModel, other: DiffusionModel, shown: NoisedImages) -> float:
    with torch.no_grad():
        a, b = (model.predict(shown.x_t, shown.t, shown.context) for model in (one, other))
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def dense() -> DiffusionModel:
    return DiffusionModel(tiny_unet((16, 32)), SCHEDULER)


class Given:
    """In the place of a model's evaluation: a layer alone, with its inputs."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def call(self, _: str, keep: bool = True) -> tuple[Tensor, Tensor]:
        return self.x, self.layer(self.x)

    def output(self, name: str) -> Tensor:
        return self.call(name)[1]


@pytest.mark.parametrize(("dense_layer", "pruned_layer", "shape"), [
    (nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1), (40, 4, 5, 5)),
    (nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.Conv2d(3, 6, 3, 2, 1, bias=False), (40, 4, 7, 7)),
    (nn.Linear(4, 6), nn.Linear(3, 6), (40, 7, 4)), (nn.Linear(4, 6), nn.Linear(3, 6), (40, 4))])
@pytest.mark.parametrize("most_unknowns", [compensation.MOST_UNKNOWNS, 0])
def test_a_channel_that_another_one_repeats_is_recovered(dense_layer, pruned_layer, shape, most_unknowns,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "MOST_UNKNOWNS", most_unknowns)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axis = 1 if x.dim() == 4 else -1
    x.index_copy_(axis, torch.tensor([3]), x.index_select(axis, torch.tensor([1])))
    left = torch.arange(24).view(6, 4)[:, :3]
    with torch.no_grad():
        pruned_layer.weight.copy_(dense_layer.weight[:, :3])
        batches = [Batch(first, Given(pruned_layer, part.index_select(axis, torch.arange(3))), Given(dense_layer, part))
                   for first, part in zip((0, 24), x.split(24), strict=True)]
        errors = NarrowedLayer.of(pruned_layer, dense_layer, left).refit("layer", batches, 1e-10)
    assert errors["before"] > 0.1
    assert errors["after"] < 1e-5


@pytest.mark.parametrize("intercept", [True, False])
def test_the_regression_is_the_ridge_of_what_the_cut_weights_miss(intercept: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 5, generator=rng), torch.randn(80, 3, generator=rng)
    start = torch.randn(3, 6 if intercept else 5, generator=rng)
    regression = Regression(start)
    for some_x, some_y in zip(x.split(33), y.split(33), strict=True):
        regression.add(some_x, some_y)
    design = torch.cat([x, torch.ones(80, 1)], 1) if intercept else x
    other = Ridge(alpha=0.1 * float((design ** 2).sum(0).mean()), fit_intercept=False).fit(design, y - design @ start.T)
    assert torch.allclose(regression.solve(0.1).float(), start + torch.from_numpy(other.coef_).float(), atol=1e-5)
    assert regression.rows == 80


def test_the_model_comes_nearer_to_the_dense_one_on_other_images_too(dense: DiffusionModel) -> None:
    model, kept = pruned(dense)
    other = images(dense, seed=1)
    before = distance(model, dense, other)
    compensate(model, dense, kept, images(dense))
    assert distance(model, dense, other) < 0.8 * before


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_no_layer_s_error_on_the_calibration_images_grows(dense: DiffusionModel, ratio: float) -> None:
    model, kept = pruned(dense, ratio)
    errors = compensate(model, dense, kept, images(dense))
    lost = {name for name, left in kept.items() if left.dim() == 2
            and left.shape[1] < dense.unet.get_submodule(name).weight.shape[1]}
    assert set(errors) == lost
    assert all(error["after"] <= error["before"] for error in errors.values())


def test_layers_that_lost_no_inputs_keep_their_weights(dense: DiffusionModel) -> None:
    model, kept = pruned(dense)
    cut_weights = copy.deepcopy(model.unet.state_dict())
    errors = compensate(model, dense, kept, images(dense))
    changed = {name.rpartition(".")[0] for name, tensor in model.unet.state_dict().items()
               if not torch.equal(tensor, cut_weights[name])}
    assert changed == set(errors)


def test_a_model_that_lost_nothing_keeps_every_bit(dense: DiffusionModel) -> None:
    model, kept = pruned(dense, 0.0)
    assert compensate(model, dense, kept, images(dense)) == {}
    assert model.key == dense.key


@pytest.mark.slow
def test_chunks_batches_and_threads_decide_nothing(dense: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, results = images(dense), []
    for rows, pixels, threads in ((4096, 2**15, 1), (300, 2**15, 1), (4096, 640, 1), (4096, 2**15, 2)):
        monkeypatch.setattr(compensation, "ROWS", rows)
        monkeypatch.setattr(compensation, "PIXELS", pixels)
        monkeypatch.setattr(compensation, "POSITIONS", 30)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        model, kept = pruned(dense)
        compensate(model, dense, kept, shown)
        torch.set_num_threads(before)
        results.append(model)
    assert all(distance(other, results[0], shown) < 1e-6 for other in results[1:])


def test_a_compensated_model_is_loaded_bit_by_bit(dense: DiffusionModel, tmp_path: Path) -> None:
    model, kept = pruned(dense)
    compensate(model, dense, kept, images(dense))
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").key == model.key


@pytest.mark.slow
def test_attention_and_gated_feed_forward_layers_are_refitted() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4, cross_attention_dim=12).eval()
        context = torch.randn(64, 3, 12)
    dense = DiffusionModel(unet, SCHEDULER)
    model, kept = pruned(dense)
    shown = images(dense, 64)
    shown = NoisedImages(shown.x_t, shown.t, context)
    before = distance(model, dense, shown)
    errors = compensate(model, dense, kept, shown)
    kinds = ("attn1.to_q", "attn2.to_q", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj", "linear_2", "conv2")
    assert all(any(name.endswith(kind) for name in errors) for kind in kinds)
    assert distance(model, dense, shown) < before


def test_a_stop_in_the_middle_leaves_the_networks_and_the_folder_as_they_were(
        dense: DiffusionModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, kept = pruned(dense)
    usual, calls = NarrowedLayer.refit, []

    def refit(*arguments) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            assert list(tmp_path.glob(".*.partial"))        # which the next command removes after a kill
            raise KeyboardInterrupt
        return usual(*arguments)
    monkeypatch.setattr(NarrowedLayer, "refit", refit)
    with pytest.raises(KeyboardInterrupt):
        compensate(model, dense, kept, images(dense), folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert not any(module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
                   for network in (model.unet, dense.unet) for module in network.modules())


def test_some_positions_of_each_image_are_enough(dense: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    other, macs, distances = images(dense, seed=1), [], []
    for count in (64, 16):
        monkeypatch.setattr(compensation, "POSITIONS", count)
        model, kept = pruned(dense)
        macs.append(sum(layer["macs"] for layer in compensate(model, dense, kept, images(dense, 256)).values()))
        distances.append(distance(model, dense, other))
    assert macs[1] < 0.6 * macs[0]
    assert distances[1] < 1.2 * distances[0]


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_ridge_without_strength_is_refused(dense: DiffusionModel, strength: float) -> None:
    with pytest.raises(ValueError, match="not positive"):
        compensate(dense, dense, {}, images(dense), strength)


def cut_run(config, folder: Path, *overrides: str) -> Run:
    """A run of a tiny model up to its pruned folder."""
    if not folder.exists():
        save_model(DiffusionModel(tiny_unet((8, 16)), SCHEDULER), folder)
    cfg = config(f"model.checkpoint={folder}", "pruner=magnitude", "pruner.ratio=.5", "sampler.steps=2", "device=cpu",
                 "pruner.compensate=ridge", "pruner.compensation_images=24", *overrides)
    check(cfg)
    run = Run(run_folder(cfg))
    score.stage(cfg, run, Tracker())
    prune.stage(cfg, run, Tracker())
    return run


def test_the_prune_stage_compensates_and_says_how_well(config, tmp_path: Path) -> None:
    run = cut_run(config, tmp_path / "model")
    said = read_json(run.prune_report)["compensation"]
    assert said["images"] == 24
    assert all(0 <= error["after"] <= error["before"] for error in said["layers"].values())
    assert PruneReport.read(run.prune_report).params < PruneReport.read(run.prune_report).params_dense


@pytest.mark.slow
def test_a_stage_that_is_done_again_gives_the_same_bits(config, tmp_path: Path) -> None:
    run = cut_run(config, tmp_path / "model")
    first = load_model(run.pruned).key
    run.prune_report.unlink()
    assert load_model(cut_run(config, tmp_path / "model").pruned).key == first


def test_the_library_compensates_as_the_stage_does() -> None:
    unet, shown = tiny_unet((8, 16)), torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, compensated = copy.deepcopy(unet), copy.deepcopy(unet)
    for network, wanted in ((plain, False), (compensated, True)):
        diffprune.prune(network, ratio=0.5, criterion=Magnitude(), data=shown, scheduler=SCHEDULER, compensate=wanted)
    model, kept = pruned(DiffusionModel(unet, SCHEDULER))
    compensate(model, DiffusionModel(unet, SCHEDULER), kept, NoisedImages.draw(model, shown, 0))
    assert all(torch.equal(one, other) for one, other in zip(
        compensated.state_dict().values(), model.unet.state_dict().values(), strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(plain.parameters(), compensated.parameters(), strict=True))
    with pytest.raises(ValueError, match="compensation refits layers on noised images: give data"):
        diffprune.prune(copy.deepcopy(unet), ratio=0.5, criterion=Magnitude(), compensate=True)


@pytest.mark.slow
def test_compensation_names_a_run_and_its_absence_does_not(config) -> None:
    assert run_name(config("dataset.held_out=0")) == "ddpm_digits-diff_pruning-T0.05-r0.3-finetune_digits-s0-f7400c8f"
    assert "-r0.3-ridge-finetune" in run_name(config("pruner.compensate=ridge"))
    names = {run_name(config("pruner.compensate=ridge", f"pruner.compensation_images={count}")) for count in (64, 512)}
    assert len(names) == 2


@pytest.mark.parametrize(("overrides", "reason"), [
    (["pruner=scratch", "pruner.compensate=ridge"], "pruner=scratch draws fresh ones"),
    (["pruner=none", "pruner.compensate=ridge"], "pruner=none removes nothing"),
    (["pruner.compensation_images=64"], "pruner.compensate=none uses none")])
def test_compensation_that_would_do_nothing_is_refused(config, overrides: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check(config(*overrides), overrides)
