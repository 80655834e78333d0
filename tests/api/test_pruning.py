"""`diffprune.prune` on a denoiser that one already holds."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    LCMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image

import diffprune
from diffprune.api.pruning import CRITERIA
from diffprune.data import digits
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Criterion, DiffPruning, DiffusersScript, Magnitude, Random
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import score
from diffprune.pruning.surgery import cut
from diffprune.pruning.timesteps import Largest, Window
from tests.conftest import tiny_unet

IMAGES, SCHEDULER = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), DDIMScheduler(num_train_timesteps=10)


def removed(unet: torch.nn.Module, **options) -> list[list[int]]:
    report = diffprune.prune(copy.deepcopy(unet), data=IMAGES, scheduler=SCHEDULER, **options)
    return [group["removed"] for group in report.groups]


def test_a_ratio_and_a_batch_are_enough() -> None:
    unet = tiny_unet()
    report = diffprune.prune(unet, ratio=0.3, data=IMAGES, scheduler=SCHEDULER)
    assert report.params == sum(p.numel() for p in unet.parameters()) < report.params_dense


@pytest.mark.slow
def test_the_library_and_the_stages_take_the_same_path() -> None:
    unet = tiny_unet()
    batch = CalibrationBatch.with_noise(IMAGES, seed=3)
    for criterion, policy in ((DiffPruning(), Window(2, 5)), (DiffusersScript(), Largest(4)), (DiffPruning(), None)):
        terms = score(DiffusionModel(copy.deepcopy(unet), SCHEDULER), criterion, batch, policy).terms
        report = cut(copy.deepcopy(unet), criterion, Allocation(0.5), terms, seed=3)
        assert removed(unet, ratio=0.5, criterion=criterion, timesteps=policy, seed=3) == [
            group["removed"] for group in report.groups]


def test_policies_and_precision_are_used() -> None:
    unet, allocation = tiny_unet((16, 32)), Allocation(0.5, scope="global")
    assert removed(unet, allocation=allocation) != removed(unet, allocation=allocation, timesteps=Window(9, 9))
    assert len(removed(unet, allocation=allocation, execution=Execution(precision="bf16"))) > 0


@pytest.mark.slow
def test_a_conditional_denoiser_is_given_its_context() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=1, cross_attention_dim=12).eval()
    contexts = (torch.randn(4, 3, 12) for _ in range(2))
    first, second = (removed(unet, ratio=0.5, context=context) for context in contexts)
    assert first != second


@pytest.mark.parametrize("scheduler", [
    DDIMScheduler(prediction_type="mine"), LCMScheduler(), DDIMScheduler(rescale_betas_zero_snr=True)],
    ids=["mine", "LCM", "no signal"])
@pytest.mark.parametrize("criterion", [DiffPruning(), Magnitude()], ids=lambda c: type(c).__name__)
def test_a_model_of_another_process_is_refused(scheduler: object, criterion: Criterion) -> None:
    with pytest.raises(ValueError, match=r"betas of a DDPM|no signal|predicts mine"):
        diffprune.prune(tiny_unet(), 0.3, criterion, IMAGES, scheduler)


@pytest.mark.parametrize("criterion", [DiffPruning(), Magnitude(), Random()], ids=lambda c: type(c).__name__)
def test_weights_that_are_not_finite_are_refused(criterion: Criterion) -> None:
    unet = tiny_unet()
    unet.conv_in.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite numbers \(conv_in\.bias\)"):
        diffprune.prune(unet, 0.3, criterion, IMAGES, SCHEDULER)


def test_a_network_that_overflows_is_refused() -> None:
    unet = tiny_unet()
    unet.conv_in.weight.data *= 1e30
    with pytest.raises(ValueError, match="the loss at timestep 0 is NaN or infinite"):
        diffprune.prune(unet, 0.3, data=IMAGES, scheduler=SCHEDULER)


@pytest.mark.parametrize(("images", "message"), [
    ((IMAGES * 255).to(torch.uint8), "images are torch.uint8.* / 127"), (IMAGES * 255, "images lie between"),
    (IMAGES / 0, "images lie between"), (IMAGES * float("nan"), "images lie between"), (IMAGES[0], r"of shape \[1, 8, 8\]")],
    ids=["bytes", "0 to 255", "infinite", "NaN", "one image"])
def test_images_on_another_scale_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diffprune.prune(tiny_unet(), 0.3, data=images, scheduler=SCHEDULER)


def test_images_without_a_negative_value_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    for images in (IMAGES * 2 - 1, IMAGES):
        assert not caplog.records
        diffprune.prune(tiny_unet(), 0.3, data=images, scheduler=SCHEDULER)
    assert "images lie between 0.0" in caplog.text


def test_blocks_that_cannot_be_pruned_are_refused() -> None:
    unet = UNet2DModel(sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
                       down_block_types=("KDownBlock2D",) * 2, up_block_types=("KUpBlock2D",) * 2)
    with pytest.raises(ValueError, match="KDownBlock2D"):
        diffprune.prune(unet, 0.3, Magnitude())


def test_either_a_ratio_or_an_allocation_is_given() -> None:
    for options in ({}, {"ratio": 0.3, "allocation": Allocation(0.3)}):
        with pytest.raises(ValueError, match="either a ratio or an allocation"):
            removed(tiny_unet(), **options)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_name_means_what_it_means_for_a_run(name: str, config) -> None:
    kind, threshold = CRITERIA[name]
    pruner = config(f"pruner={name}").pruner
    assert pruner.criterion._target_ == f"{kind.__module__}.{kind.__name__}"
    assert pruner.get("threshold", 0.0) == threshold


def test_a_run_and_the_library_remove_the_same_channels_from_the_digits_model(config, tmp_path: Path) -> None:
    from diffprune.pruning.prune_report import PruneReport
    from diffprune.runs.run import Run
    from diffprune.stages import prune, score
    from diffprune.tracking.tracker import Tracker
    cfg, run = config("pruner=first_order_taylor", "pruner.calibration_batch=2", "dataset.held_out=0"), Run(tmp_path / "run")
    run.folder.mkdir()
    for stage in (score.stage, prune.stage):
        stage(cfg, run, Tracker())
    pipeline = diffprune.load_pipeline("shipped:ddpm_digits")
    report = diffprune.prune(pipeline, 0.3, "first_order_taylor", "shipped:digits", calibration_batch=2)
    assert report == PruneReport.read(run.prune_report)
    assert report.params == sum(p.numel() for p in pipeline.unet.parameters())


def test_a_pipeline_brings_its_own_schedule() -> None:
    unet = tiny_unet()
    report = diffprune.prune(DDIMPipeline(copy.deepcopy(unet), SCHEDULER), 0.5, data=IMAGES)
    assert [group["removed"] for group in report.groups] == removed(unet, ratio=0.5)


def test_a_folder_of_images_is_read_at_the_models_size(tmp_path: Path) -> None:
    for i, image in enumerate(digits.load(None, False).pixels[:6, 0].numpy()):
        Image.fromarray(image).resize((20, 20)).save(tmp_path / f"{i}.png")
    assert diffprune.prune(DDIMPipeline(tiny_unet(), SCHEDULER), 0.5, "taylor", tmp_path, calibration_batch=4).params
    with pytest.raises(ValueError, match="calibration_batch=128 asks for more images"):
        diffprune.prune(DDIMPipeline(tiny_unet(), SCHEDULER), 0.5, "taylor", tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        diffprune.prune(DDIMPipeline(tiny_unet(), SCHEDULER), 0.5, "taylor", tmp_path / "nowhere")


def callers_state(unet: torch.nn.Module) -> list[object]:
    """Everything that pruning may not change, by name."""
    return [{name: module.training for name, module in unet.named_modules()},
            {name: weight.requires_grad for name, weight in unet.named_parameters()},
            {name: weight.grad is None for name, weight in unet.named_parameters()},
            torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


def held_by_a_caller() -> torch.nn.Module:
    """A network in training, one of whose layers is in evaluation mode, one frozen, and one without a gradient."""
    unet = tiny_unet().train()
    unet.mid_block.eval()
    unet.conv_in.weight.requires_grad_(False)
    for weight in (unet.conv_out.weight, unet.conv_norm_out.weight):
        weight.grad = torch.arange(weight.numel(), dtype=torch.float32).view_as(weight)
    return unet


@pytest.mark.parametrize("compensate", [False, True])
def test_the_callers_state_is_as_before(compensate: bool) -> None:
    unet = held_by_a_caller()
    before, gradient = callers_state(unet), unet.conv_out.weight.grad.clone()
    report = diffprune.prune(unet, 0.5, data=IMAGES, scheduler=SCHEDULER, compensate=compensate)
    assert callers_state(unet) == before
    kept = report.kept("up_blocks.1.resnets.1.conv2", 8)
    assert len(kept) < 8
    assert torch.equal(unet.conv_out.weight.grad, gradient[:, kept])


def test_the_callers_state_is_as_before_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffprune.api.pruning
    unet = held_by_a_caller()
    before, weights, gradient = callers_state(unet), copy.deepcopy(unet.state_dict()), unet.conv_out.weight.grad.clone()
    for wrong in ({"ratio": 1.5}, {"ratio": 0.5, "timesteps": Window(10, 12)}):
        with pytest.raises(ValueError, match=r"ratio|counts none"):
            diffprune.prune(unet, data=IMAGES, scheduler=SCHEDULER, **wrong)
    monkeypatch.setattr(diffprune.api.pruning, "cut", lambda *_, **__: 1 / 0)      # when all has been scored
    with pytest.raises(ZeroDivisionError):
        diffprune.prune(unet, 0.5, data=IMAGES, scheduler=SCHEDULER)
    unet.conv_in.weight.data *= 1e30        # in the middle of the scoring
    with pytest.raises(ValueError, match="NaN or infinite"):
        diffprune.prune(unet, 0.5, data=IMAGES, scheduler=SCHEDULER)
    unet.conv_in.weight.data = weights["conv_in.weight"]
    assert callers_state(unet) == before
    assert torch.equal(unet.conv_out.weight.grad, gradient)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(("options", "message"), [
    ({"ratio": None}, "either a ratio or an allocation"), ({"ratio": -0.1}, r"outside \[0, 1\)"),
    ({"criterion": "tailor"}, "'tailor' is not known: choose one of diff_pruning, taylor"),
    ({"criterion": DiffPruning}, "is no Criterion"), ({"data": None}, "needs gradients: give data"),
    ({"scheduler": None}, "needs gradients: give data, and for a network"),
    ({"data": IMAGES.expand(-1, 3, -1, -1)}, "images have 3 channels, the model takes 1"),
    ({"data": "shipped:digits"}, "shape"), ({"context": torch.zeros(4, 1, 8)}, "takes no context"),
    ({"timesteps": Window(10, 20)}, "counts none of the model's 10 timesteps"),
    ({"timesteps": Largest(0)}, "counts none of the model's 10 timesteps"),
    ({"scheduler": LCMScheduler()}, "LCMScheduler"),
    ({"criterion": "magnitude", "data": None, "compensate": True}, "compensation refits layers on noised images: give data"),
    ({"data": "shipped:digits", "size": 8, "compensate": True, "compensation_images": 2000}, "compensation_images=2000")])
def test_arguments_are_checked_before_the_scoring_pass(options: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffprune.pruning.importance.ScoringPass", lambda *_: 1 / 0)
    options = {"ratio": 0.3, "data": IMAGES, "scheduler": SCHEDULER} | options
    unet = tiny_unet(size=options.pop("size", 16))
    with pytest.raises(ValueError, match=message):
        diffprune.prune(unet, **options)


def test_a_network_of_another_kind_is_refused_before_the_scoring_pass() -> None:
    for held in (torch.nn.Linear(2, 2), "unet", Image):
        with pytest.raises(ValueError, match="give a"):
            diffprune.prune(held, 0.3, data=IMAGES, scheduler=SCHEDULER)


def test_what_is_returned_is_shown_in_a_line() -> None:
    report = diffprune.prune(tiny_unet(), 0.3, "magnitude")
    assert len(repr(report)) < 120
    assert f"params={report.params}" in repr(report)
