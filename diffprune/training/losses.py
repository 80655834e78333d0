"""What a model in training learns: a weighted sum of terms that compare it with the noise and with the dense model."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffprune.diffusion.process import Process
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.training.block_outputs import output_layers, recorded_blocks

Context = AbstractContextManager[object]

GROUPS = 4          # of the pixels of an image, by how much student and teacher differ there
NUDGE = 1e-2        # length of a finite difference beside that of the noised image


@dataclass(frozen=True)
class Noised:
    """Images of a step: `x_0`, `eps` [n, C, H, W], timesteps `t` [n] of the `process`, `context` [n, L, D] or None.
    `direction` [n, C, H, W] has a random unit vector for each image where a term needs one."""
    x_0: Tensor
    eps: Tensor
    t: Tensor
    process: Process
    context: Tensor | None = None
    direction: Tensor | None = None

    @cached_property
    def x_t(self) -> Tensor:
        """The images with their noise, [n, C, H, W]."""
        return self.process.add_noise(self.x_0, self.eps, self.t)

    @property
    def target(self) -> Tensor:
        """What the models were trained to predict, [n, C, H, W]."""
        return self.process.target(self.x_0, self.eps, self.t)

    def predicted(self, model: DiffusionModel) -> Tensor:
        """What `model` predicts for the images at their timesteps, at least in float32 [n, C, H, W]."""
        return predictor(model, self)(self.x_t)


@dataclass(frozen=True)
class Evaluation:
    """What `model` predicted for a step's images, [n, C, H, W], and where a term needs them the outputs [n, C', H',
    W'] of its down, middle and up blocks, in the order they run."""
    model: DiffusionModel
    prediction: Tensor
    blocks: Sequence[Tensor] = ()


class Comparison:
    """The student and its teacher on the images of a step. Each is evaluated once, when a term first asks for it."""

    def __init__(self, objective: "Objective", student: DiffusionModel, noised: Noised) -> None:
        self.objective, self.model, self.noised = objective, student, noised

    @cached_property
    def student(self) -> Evaluation:
        return self.evaluate(self.model)

    @cached_property
    def teacher(self) -> Evaluation:
        assert self.objective.teacher is not None
        with torch.no_grad(), self.objective.teacher_context():
            return self.evaluate(self.objective.teacher)

    @property
    def kept(self) -> Sequence[Tensor]:
        """For each block the teacher's channels that are the student's."""
        return self.objective.kept

    def evaluate(self, model: DiffusionModel) -> Evaluation:
        if not self.objective.needs_blocks:
            return Evaluation(model, self.noised.predicted(model))
        with recorded_blocks(model.unet) as blocks:
            return Evaluation(model, self.noised.predicted(model), blocks)


class Term(ABC):
    """A part of the objective: of a step's comparison it makes one number per image [n], in the unit of a squared error
    summed over C, H, W. What it needs is said by its class: a teacher, which is the dense model; the outputs of a UNet's
    blocks; a random direction. `evaluations`: how many further ones of each network it takes."""
    needs_teacher: ClassVar[bool] = False
    needs_blocks: ClassVar[bool] = False
    needs_direction: ClassVar[bool] = False
    evaluations: ClassVar[int] = 0

    @abstractmethod
    def __call__(self, compared: Comparison) -> Tensor: ...


class NoisePrediction(Term):
    """|target - student|², where most models' target is the noise (Ho et al. 2020, eq. 14, summed over the pixels)."""

    def __call__(self, compared: Comparison) -> Tensor:
        return squared_error(compared.student.prediction, compared.noised.target)


class OutputDistillation(Term):
    """|teacher - student|² of their predictions."""
    needs_teacher = True

    def __call__(self, compared: Comparison) -> Tensor:
        return squared_error(compared.student.prediction, compared.teacher.prediction)


class AttentionMaps(Term):
    """D mean over blocks of |a(teacher) - a(student)|² of their outputs, D the numbers of one image.

    a(F) is the mean over channels of F², divided by its norm (Zagoruyko and Komodakis 2017, eq. 2): a map that needs no
    projection between different widths, with distances in 0 … 2.
    """
    needs_teacher = needs_blocks = True

    def __call__(self, compared: Comparison) -> Tensor:
        pairs = zip(compared.student.blocks, compared.teacher.blocks, strict=True)
        distances = [squared_error(attention_map(own), attention_map(taught)) for own, taught in pairs]
        return compared.noised.eps[0].numel() * torch.stack(distances).mean(0)


class KeptFeatures(Term):
    """D mean over blocks of |F(teacher) - F(student)|² / |F(teacher)|² on the channels of their outputs that were kept.

    The student's channels are some of the teacher's, so that their features compare without any projection.
    """
    needs_teacher = needs_blocks = True

    def __call__(self, compared: Comparison) -> Tensor:
        distances = []
        for own, whole, kept in zip(compared.student.blocks, compared.teacher.blocks, compared.kept, strict=True):
            taught = precise(whole).index_select(1, kept)
            distances.append(squared_error(precise(own), taught) / taught.square().flatten(1).sum(1).clamp(min=1e-12))
        return compared.noised.eps[0].numel() * torch.stack(distances).mean(0)


class JacobianNorm(Term):
    """D (|P(student)| - |P(teacher)|)², P the Jacobian J of a prediction, by its noised image, times a random unit vector v.

    Of E |J v|² = |J|² / D for D numbers of an image each draw is an estimate: the term asks the student to be as sensitive
    as its teacher (second-order matching, Zheng and Shlizerman 2026). Dropout is off while products are taken.
    """
    needs_teacher = needs_direction = True
    evaluations = 2

    def __call__(self, compared: Comparison) -> Tensor:
        noised, student, teacher = compared.noised, compared.student.model, compared.teacher.model
        assert noised.direction is not None
        was_training = student.unet.training
        student.unet.eval()
        try:
            own = self.product(student, noised, noised.direction).flatten(1).norm(dim=1)
            taught = self.product(teacher, noised, noised.direction).detach().flatten(1).norm(dim=1)
        finally:
            student.unet.train(was_training)
        return noised.eps[0].numel() * (own - taught).square()

    @abstractmethod
    def product(self, model: DiffusionModel, noised: Noised, v: Tensor) -> Tensor:
        """J v or its like, [n, C, H, W], differentiable by the weights."""


class Jacobian(JacobianNorm):
    """The product is J v, as in the paper, by forward-mode differentiation."""

    def product(self, model: DiffusionModel, noised: Noised, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():      # the fused kernels have no forward mode
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)      # PyTorch's own, of its own code
            return torch.func.jvp(predictor(model, noised), (noised.x_t,), (v,))[1]


class TransposedJacobian(JacobianNorm):
    """The product is transposed(J) v, as in the authors' code, by differentiating twice."""

    def product(self, model: DiffusionModel, noised: Noised, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():      # the fused kernels are differentiated once only
            x_t = noised.x_t.detach().requires_grad_()
            return torch.autograd.grad((predictor(model, noised)(x_t) * v).sum(), x_t, create_graph=True)[0]


class FiniteDifference(JacobianNorm):
    """The product is J v by a finite difference over NUDGE of the noised image's length, differentiated once."""

    def product(self, model: DiffusionModel, noised: Noised, v: Tensor) -> Tensor:
        step = NUDGE * noised.x_t.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        predict = predictor(model, noised)
        return (predict(noised.x_t + step * v) - predict(noised.x_t)) / step


class PiecewiseFit(Term):
    """The output's distillation, coarse errors first: coarse + fine · fine / (coarse + fine).

    The pixels of an image are divided into GROUPS by how much the predictions differ. In each, f = a student + b is the
    linear regression of teacher on student; coarse is |f - student|², which two numbers of a group could mend, and fine is
    |teacher - f|². Their sum is |teacher - student|². After LIFT and PLACE (Han, Yeo and Yoo 2026), who fit the teacher to
    the student in groups; the weight of the fine part is this project's own.
    """
    needs_teacher = True

    def __call__(self, compared: Comparison) -> Tensor:
        own, taught = compared.student.prediction.flatten(1), compared.teacher.prediction.flatten(1)
        order = (taught - own).abs().argsort(dim=1)
        coarse, fine = torch.zeros_like(own[:, 0]), torch.zeros_like(own[:, 0])
        for some in order.tensor_split(GROUPS, dim=1):
            x, y = own.gather(1, some), taught.gather(1, some)
            x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
            slope = ((x - x_mean) * (y - y_mean)).sum(1) / (x - x_mean).square().sum(1).clamp(min=1e-12)
            fit = y_mean + slope[:, None] * (x - x_mean)
            coarse, fine = coarse + squared_error(fit, x), fine + squared_error(y, fit)
        return coarse + fine * fine / (coarse + fine).clamp(min=1e-12)


TERMS: dict[str, type[Term]] = {
    "noise": NoisePrediction, "output": OutputDistillation, "kept_features": KeptFeatures, "attention_maps": AttentionMaps,
    "jacobian": Jacobian, "jacobian_transposed": TransposedJacobian, "jacobian_difference": FiniteDifference,
    "place": PiecewiseFit}


class Objective:
    """The sum of terms times their weights: called with the student and some noised images, it gives a number per image [n].

    `teacher`: the dense model, on the student's device, which is put into evaluation mode without gradients. `kept`: for
    each of its down, middle and up blocks the output channels that are the student's (default: the student is as wide).
    """

    def __init__(self, weights: Mapping[type[Term], float], teacher: DiffusionModel | None = None,
                 kept: Sequence[Tensor] | None = None, teacher_context: Callable[[], Context] = nullcontext) -> None:
        """The teacher predicts in a `teacher_context`. ValueError where a term needs a teacher, or block outputs, and there
        are none."""
        self.terms = [(term(), weight) for term, weight in weights.items()]
        self.needs_blocks = any(term.needs_blocks for term, _ in self.terms)
        self.needs_direction = any(term.needs_direction for term, _ in self.terms)
        if teacher is not None:
            teacher.unet.eval().requires_grad_(False)
        elif needing := [type(term).__name__ for term, _ in self.terms if term.needs_teacher]:
            raise ValueError(f"{needing[0]} needs a teacher: give the dense model")
        self.teacher, self.kept, self.teacher_context = teacher, list(kept or []), teacher_context
        if self.needs_blocks and teacher is not None:
            widths = output_layers(teacher.unet).values()
            self.kept = [channels.to(teacher.device) for channels in kept or map(torch.arange, widths)]

    @property
    def can_be_compiled(self) -> bool:
        """Whether the student's network is only evaluated and differentiated once, which is what torch.compile can do."""
        return not (self.needs_blocks or self.needs_direction or any(term.evaluations for term, _ in self.terms))

    def __call__(self, student: DiffusionModel, noised: Noised) -> Tensor:
        compared = Comparison(self, student, noised)
        return torch.stack([weight * term(compared) for term, weight in self.terms]).sum(0)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Summed over everything but the first axis: [n, ...] -> [n]."""
    return (a - b).square().flatten(1).sum(1)


def predictor(model: DiffusionModel, noised: Noised) -> Callable[[Tensor], Tensor]:
    """What `model` predicts, as a function of the noised images."""
    return lambda x_t: precise(model.predict(x_t, noised.t, noised.context))


def precise(tensor: Tensor) -> Tensor:
    """`tensor` in float32 where it has fewer bits, as under autocast."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def attention_map(features: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, H * W], of length 1."""
    return F.normalize(precise(features).square().mean(1).flatten(1))
