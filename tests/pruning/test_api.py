"""`diffprune.prune` on a denoiser that one already holds."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel, UNet2DModel

import diffprune
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
    report = diffprune.prune(copy.deepcopy(unet), images=IMAGES, scheduler=SCHEDULER, **options)
    return [group["removed"] for group in report.groups]


def test_a_ratio_and_a_batch_are_enough() -> None:
    unet = tiny_unet()
    report = diffprune.prune(unet, ratio=0.3, images=IMAGES, scheduler=SCHEDULER)
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
        diffprune.prune(unet, 0.3, images=IMAGES, scheduler=SCHEDULER)


@pytest.mark.parametrize(("images", "message"), [
    ((IMAGES * 255).to(torch.uint8), "images are torch.uint8.* / 127"), (IMAGES * 255, "images lie between"),
    (IMAGES / 0, "images lie between"), (IMAGES * float("nan"), "images lie between"), (IMAGES[0], r"of shape \[1, 8, 8\]")],
    ids=["bytes", "0 to 255", "infinite", "NaN", "one image"])
def test_images_on_another_scale_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diffprune.prune(tiny_unet(), 0.3, images=images, scheduler=SCHEDULER)


def test_images_without_a_negative_value_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    for images in (IMAGES * 2 - 1, IMAGES):
        assert not caplog.records
        diffprune.prune(tiny_unet(), 0.3, images=images, scheduler=SCHEDULER)
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
