"""What a model in training is asked for."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from omegaconf import OmegaConf
from torch.nn import functional as F

from diffprune.config.compose import CONF
from diffprune.config.validation import check
from diffprune.diffusion.process import Process
from diffprune.models.cost import example_inputs
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Magnitude
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.surgery import cut
from diffprune.runtime.errors import UserError
from diffprune.stages.options import load_dense, load_teacher, recipe
from diffprune.training.block_outputs import blocks_of, output_layers, recorded_blocks
from diffprune.training.losses import (
    TERMS,
    Comparison,
    FiniteDifference,
    Jacobian,
    Noised,
    Objective,
    OutputDistillation,
    Term,
    TransposedJacobian,
    attention_map,
)
from tests.conftest import tiny_unet, tuned

rng = torch.Generator().manual_seed(0)
T = torch.tensor([3, 400, 999])
NOISED = Noised(torch.randn(3, 1, 8, 8, generator=rng), torch.randn(3, 1, 8, 8, generator=rng), T,
                Process.ddpm(DDIMScheduler().alphas_cumprod),
                direction=F.normalize(torch.randn(3, 64, generator=rng)).view(3, 1, 8, 8))
TAUGHT = [name for name, term in TERMS.items() if term.needs_teacher]


@pytest.fixture
def student() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


def objective_of(weights: str, *overrides: str) -> Objective:
    cfg = tuned(f"schedule.objective={weights}", *overrides)
    return Objective(recipe(cfg).objective, load_teacher(cfg))


def teacher() -> DiffusionModel:
    """Of the same shape as the student, with other weights."""
    model = DiffusionModel(tiny_unet(), DDIMScheduler())
    with torch.no_grad():
        for weight in model.unet.parameters():
            weight.mul_(1.1).add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return model


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(a, b, reduction="none").sum((1, 2, 3))


def test_noise_prediction_is_the_squared_error_per_image(student: DiffusionModel) -> None:
    a = NOISED.process.signal[T].square().view(-1, 1, 1, 1)
    predicted = student.unet(a.sqrt() * NOISED.x_0 + (1 - a).sqrt() * NOISED.eps, T).sample
    torch.testing.assert_close(objective_of("{noise: 1}")(student, NOISED), squared(predicted, NOISED.eps))


def test_output_distillation_is_mostly_the_teachers_opinion(config, student: DiffusionModel) -> None:
    cfg = config("schedule=distill")
    predicted, taught = NOISED.predicted(student), NOISED.predicted(load_dense(cfg))
    loss = Objective(recipe(cfg).objective, load_teacher(cfg))(student, NOISED)
    torch.testing.assert_close(loss, 0.7 * squared(predicted, taught) + 0.3 * squared(predicted, NOISED.eps))


@pytest.mark.parametrize("name", TAUGHT)
def test_the_student_alone_learns(student: DiffusionModel, name: str) -> None:
    objective = Objective({TERMS[name]: 1.0}, teacher())
    objective(student, NOISED).sum().backward()
    assert student.unet.conv_in.weight.grad.abs().sum() > 0
    assert objective.teacher is not None
    assert not objective.teacher.unet.training
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.unet.parameters())


@pytest.mark.parametrize("name", TAUGHT)
def test_a_student_like_its_teacher_has_nothing_to_learn(student: DiffusionModel, name: str) -> None:
    like = DiffusionModel(tiny_unet(), DDIMScheduler())
    like.unet.load_state_dict(student.unet.state_dict())
    loss = Objective({TERMS[name]: 1.0}, like)(student, NOISED)
    assert loss.shape == (3,)
    assert (loss.abs() < 1e-6).all()


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_is_that_of_a_finite_difference(name: str) -> None:
    student, taught, noised = DiffusionModel(tiny_unet(), DDIMScheduler()), teacher(), in_float64(NOISED)
    student.unet.double(), taught.unet.double()
    objective, weight = Objective({TERMS[name]: 1.0}, taught), student.unet.mid_block.resnets[0].conv1.weight
    objective(student, noised).sum().backward()
    along, step = weight.grad / weight.grad.norm(), 1e-5

    def moved(distance: float) -> float:
        with torch.no_grad():
            weight.add_(distance * along)
            loss = float(objective(student, noised).sum())
            weight.sub_(distance * along)
        return loss

    torch.testing.assert_close((moved(step) - moved(-step)) / (2 * step), float(weight.grad.norm()), rtol=1e-5, atol=1e-8)


def in_float64(noised: Noised) -> Noised:
    assert noised.direction is not None
    return Noised(noised.x_0.double(), noised.eps.double(), noised.t, noised.process, None,
                  noised.direction.double())


def test_products_with_the_jacobian_are_those_of_the_whole_matrix(student: DiffusionModel) -> None:
    noised = in_float64(NOISED)
    student.unet.double()
    assert noised.direction is not None
    for i in range(len(T)):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=i: student.predict(x.view(1, 1, 8, 8), T[i:i + 1]).flatten(), noised.x_t[i].flatten())
        v = noised.direction[i].flatten()
        one = Noised(noised.x_0[i:i + 1], noised.eps[i:i + 1], T[i:i + 1], noised.process)
        for term, expected, rtol in ((Jacobian, jacobian @ v, 1e-6), (TransposedJacobian, jacobian.T @ v, 1e-6),
                                     (FiniteDifference, jacobian @ v, 0.05)):
            product = term().product(student, one, v.view(1, 1, 8, 8)).detach().flatten()
            assert (product - expected).norm() < rtol * expected.norm(), term


def test_dropout_does_not_blur_a_jacobian(student: DiffusionModel) -> None:
    objective = Objective({FiniteDifference: 1.0}, teacher())
    expected = objective(student, NOISED)
    for module in student.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    student.unet.train()
    torch.testing.assert_close(objective(student, NOISED), expected)
    assert student.unet.training


def test_the_piecewise_fit_is_the_outputs_distance_but_for_the_fine_part_beside_a_coarse_one(
        student: DiffusionModel) -> None:
    own, taught = NOISED.predicted(student), NOISED.predicted(teacher())
    whole = squared(own, taught)
    loss = Objective({TERMS["place"]: 1.0}, teacher())(student, NOISED)
    assert ((loss > 0.5 * whole) & (loss < whole)).all()     # least where both parts are equal: 1/2 + 1/4

    class Shifted(Comparison):
        """Predictions that differ by the same number in every pixel, which a linear fit finds."""
        student = type("Evaluation", (), {"prediction": taught + 0.25})
        teacher = type("Evaluation", (), {"prediction": taught})

    torch.testing.assert_close(TERMS["place"]()(Shifted(None, None, NOISED)), torch.full((3,), 64 * 0.25**2))


def test_features_of_any_width_are_compared_as_attention_maps(student: DiffusionModel) -> None:
    features = torch.randn(2, 6, 4, 4, generator=rng)
    expected = torch.stack([(f**2).mean(0).flatten() / (f**2).mean(0).norm() for f in features])
    torch.testing.assert_close(attention_map(features), expected)
    apart = objective_of("{noise: 0, attention_maps: 1}")(student, NOISED)
    assert ((apart > 0) & (apart < 2 * 64)).all()


def test_kept_features_compare_the_channels_that_a_cut_has_left() -> None:
    dense = DiffusionModel(tiny_unet(), DDIMScheduler())
    student = DiffusionModel(tiny_unet(), DDIMScheduler())
    report = cut(student.unet, Magnitude(), Allocation(0.5), layer_terms(student.unet, Magnitude().terms))
    layers = output_layers(dense.unet)
    kept = [torch.tensor(report.kept(layer, width)) for layer, width in layers.items()]
    assert list(output_layers(student.unet).values()) == [len(channels) for channels in kept]
    assert any(len(channels) < width for channels, width in zip(kept, layers.values(), strict=True))
    with torch.no_grad(), recorded_blocks(dense.unet) as whole, recorded_blocks(student.unet) as own:
        NOISED.predicted(dense), NOISED.predicted(student)
    errors = [squared(a, b[:, channels]) / b[:, channels].square().sum((1, 2, 3))
              for a, b, channels in zip(own, whole, kept, strict=True)]
    loss = Objective({TERMS["kept_features"]: 1.0}, dense, kept)(student, NOISED)
    torch.testing.assert_close(loss, 64 * torch.stack(errors).mean(0))


@pytest.mark.parametrize("attention", [True, False])
def test_the_channels_of_a_blocks_output_are_those_of_its_last_convolution(attention: bool) -> None:
    plain = tiny_unet((8, 16, 16), layers=2, attention=attention)
    conditional = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=1, cross_attention_dim=8)
    for unet in (plain, conditional):
        inputs = example_inputs(unet)
        with torch.no_grad(), recorded_blocks(unet) as outputs:
            unet(**inputs)
        layers = output_layers(unet)
        assert list(layers.values()) == [output.shape[1] for output in outputs]
        assert [name.rpartition(".")[0].split(".")[0] for name in layers] == [name.split(".")[0] for name in blocks_of(unet)]


def test_the_teacher_is_evaluated_once_for_all_terms(student: DiffusionModel) -> None:
    taught, calls = teacher(), []
    taught.unet.register_forward_hook(lambda *_: calls.append(1))
    Objective({TERMS[name]: 1.0 for name in ("output", "kept_features", "attention_maps", "place")}, taught)(student, NOISED)
    assert len(calls) == 1


def test_blocks_are_watched_during_the_loss_alone(student: DiffusionModel) -> None:
    objective = Objective({TERMS["attention_maps"]: 1.0}, teacher())
    first = objective(student, NOISED)
    NOISED.predicted(student)       # as a preview does
    torch.testing.assert_close(objective(student, NOISED), first)
    assert not any(block._forward_hooks for block in blocks_of(student.unet).values())


def test_every_term_has_a_weight_in_the_defaults() -> None:
    assert OmegaConf.load(CONF / "schedule/default.yaml").objective == {name: float(name == "noise") for name in TERMS}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_with_random_weights_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"schedule.objective has {name}, which learns from the dense model"):
        objective_of(f"{{{name}: 1}}", "model.checkpoint=null")


@pytest.mark.parametrize("weights", ["{noise: 0}", "{noise: -1}", "{noise: 2, output: -1}"])
def test_weights_that_are_no_objective_are_refused(weights: str) -> None:
    with pytest.raises(UserError, match="give positive weights"):
        objective_of(weights)


def test_a_term_that_needs_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="OutputDistillation needs a teacher"):
        Objective({OutputDistillation: 1.0})


class HalfTaught(Term):
    """A term from outside the package."""
    needs_teacher = True

    def __call__(self, compared: Comparison) -> torch.Tensor:
        return squared(compared.student.prediction, (compared.noised.eps + compared.teacher.prediction) / 2)


def test_a_term_from_elsewhere_is_one_class_whose_path_the_option_names(config, student: DiffusionModel) -> None:
    cfg = config("+schedule.objective={noise: 0, tests.training.test_losses.HalfTaught: 2}")
    check(cfg)
    terms = recipe(cfg).objective
    assert {term.__name__: weight for term, weight in terms.items()} == {"HalfTaught": 2.0}
    assert Objective(terms, load_teacher(cfg))(student, NOISED).shape == (3,)


@pytest.mark.parametrize("path", ["tests.training.test_losses.Absent", "nowhere.Absent", "tests.training.test_losses",
                                  "torch.nn.Linear"])
def test_a_path_without_a_term_is_refused(config, path: str) -> None:
    with pytest.raises(UserError, match=rf"schedule.objective has {path}, which is neither noise, output, .*nor"):
        recipe(config(f"+schedule.objective={{{path}: 1}}"))
