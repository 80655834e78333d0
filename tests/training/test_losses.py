"""What a model in training is asked for."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn import functional as F

from diffprune.config.validation import check
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_dense, load_teacher, recipe
from diffprune.training.losses import LOSSES, Distillation, Loss, Noised, OutputDistillation, attention_map, min_snr
from tests.conftest import tiny_unet, tuned

rng = torch.Generator().manual_seed(0)
T = torch.tensor([3, 400, 999])
NOISED = Noised(torch.randn(3, 1, 8, 8, generator=rng), torch.randn(3, 1, 8, 8, generator=rng), T,
                DDIMScheduler().alphas_cumprod[T])


@pytest.fixture
def student() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


def loss_of(kind: str, *overrides: str) -> Loss:
    cfg = tuned(f"schedule.loss={kind}", *overrides)
    return recipe(cfg).loss(load_teacher(cfg))


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(a, b, reduction="none").sum((1, 2, 3))


def test_noise_prediction_is_the_squared_error_per_image(student: DiffusionModel) -> None:
    a = NOISED.alpha_bar.view(-1, 1, 1, 1)
    predicted = student.unet(a.sqrt() * NOISED.x_0 + (1 - a).sqrt() * NOISED.eps, T).sample
    torch.testing.assert_close(loss_of("noise")(student, NOISED), squared(predicted, NOISED.eps))


def test_output_distillation_is_mostly_the_teachers_opinion(config, student: DiffusionModel) -> None:
    cfg = config("schedule=distill")
    predicted, taught = NOISED.predicted(student), NOISED.predicted(load_dense(cfg))
    loss = LOSSES[cfg.schedule.loss](load_teacher(cfg))(student, NOISED)
    torch.testing.assert_close(loss, 0.7 * squared(predicted, taught) + 0.3 * squared(predicted, NOISED.eps))


@pytest.mark.parametrize("kind", ["distill", "features"])
def test_the_student_alone_learns(student: DiffusionModel, kind: str) -> None:
    loss = loss_of(kind)
    loss(student, NOISED).sum().backward()
    assert student.unet.conv_in.weight.grad.abs().sum() > 0
    assert not loss.teacher.unet.training
    assert all(p.grad is None and not p.requires_grad for p in loss.teacher.unet.parameters())


def test_features_of_any_width_are_compared_as_attention_maps(student: DiffusionModel) -> None:
    features = torch.randn(2, 6, 4, 4, generator=rng)
    expected = torch.stack([(f**2).mean(0).flatten() / (f**2).mean(0).norm() for f in features])
    torch.testing.assert_close(attention_map(features), expected)
    noise, both = loss_of("noise"), loss_of("features")
    apart = both(student, NOISED) - noise(student, NOISED)
    assert ((apart > 0) & (apart < 2 * 64)).all()


def test_a_student_like_its_teacher_has_nothing_to_learn_from_its_features() -> None:
    student = load_dense(tuned())
    noise, both = loss_of("noise"), loss_of("features")
    torch.testing.assert_close(both(student, NOISED), noise(student, NOISED))


def test_features_are_watched_during_the_loss_alone(student: DiffusionModel) -> None:
    loss = loss_of("features")
    first = loss(student, NOISED)
    NOISED.predicted(student)       # as a preview does
    torch.testing.assert_close(loss(student, NOISED), first)
    assert not any(block._forward_hooks for block in (*student.unet.down_blocks, *student.unet.up_blocks))


@pytest.mark.parametrize("kind", ["distill", "features"])
def test_a_teacher_with_random_weights_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=rf"schedule.loss={kind} learns from the dense model"):
        loss_of(kind, "model.checkpoint=null")


def test_a_loss_that_needs_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="OutputDistillation needs a teacher"):
        OutputDistillation()


class HalfTaught(Distillation):
    """An objective from outside the package."""

    def __call__(self, student: DiffusionModel, noised: Noised) -> torch.Tensor:
        return squared(noised.predicted(student), (noised.eps + noised.predicted(self.teacher)) / 2)


def test_an_objective_from_elsewhere_is_one_class_whose_path_the_option_names(student: DiffusionModel) -> None:
    path = "tests.training.test_losses.HalfTaught"
    check(tuned(f"schedule.loss={path}"))
    loss = loss_of(path)
    assert type(loss).__name__ == "HalfTaught"
    assert loss(student, NOISED).shape == (3,)


@pytest.mark.parametrize("path", ["tests.training.test_losses.Absent", "nowhere.Absent", "tests.training.test_losses"])
def test_a_path_without_a_class_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=rf"schedule.loss={path} is neither noise, distill, features nor"):
        recipe(tuned(f"schedule.loss={path}"))


def test_min_snr_bounds_the_weight_of_clean_images() -> None:
    alpha_bar = torch.tensor([0.9, 0.5, 0.1])       # SNR 9, 1, 1/9
    torch.testing.assert_close(min_snr(alpha_bar, 5), torch.tensor([5 / 9, 1, 1]))
    torch.testing.assert_close(min_snr(alpha_bar, 0.5), torch.tensor([0.5 / 9, 0.5, 1]))
    assert min_snr(alpha_bar, None) == 1
