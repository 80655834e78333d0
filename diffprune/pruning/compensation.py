"""Compensation of a cut in closed form: each layer that lost inputs is refitted to the dense layer's outputs.

For a layer with inputs X (those of the pruned model, whose earlier layers are refitted already) and the dense layer's
outputs Y on the kept channels, ridge regression minimises

    ||Y - W X - b||^2 + s ||(W, b) - (W0, b0)||^2,     s = strength * mean diagonal of X X^T,

where W0, b0 are the cut weights, so that a direction in which X hardly varies keeps them.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.device import tf32
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.rerun import Rerun
from diffprune.pruning.dependency import scored_weights
from diffprune.runtime.files import remove_tree, temporary_sibling

STRENGTH = 1e-3
MOST_UNKNOWNS = 8192    # of one output channel; with more, a layer's kernel is kept and its channels are regressed
PIXELS = 2**15          # of the images that are evaluated together, at least one image
POSITIONS = 64          # of each image at most that a layer is fitted to, drawn at random
ROWS = 4096             # positions whose patches lie in memory at once, at least those of one image

Refitted = dict[str, dict[str, float]]    # {layer: {"before", "after", "macs"}}


@dataclass(frozen=True)
class NoisedImages:
    """What both models are shown: `x_t` [N, C, H, W] at timesteps `t` [N], with the `context` of a conditional model."""
    x_t: Tensor
    t: Tensor
    context: Tensor | None = None

    @classmethod
    def draw(cls, model: DiffusionModel, x_0: Tensor, seed: int, context: Tensor | None = None) -> "NoisedImages":
        """Clean `x_0` [N, C, H, W] (latents of a latent model), each noised at a timestep that is drawn uniformly."""
        rng = generator(seed, Stream.COMPENSATION)
        t = torch.randint(0, model.process.timesteps, (len(x_0),), generator=rng).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=rng).to(x_0)
        return cls(model.process.add_noise(x_0, eps, t), t, context)

    def part(self, first: int, last: int) -> "NoisedImages":
        """The images first, …, last - 1."""
        context = None if self.context is None else self.context[first:last]
        return NoisedImages(self.x_t[first:last], self.t[first:last], context)


def positions(unet: nn.Module) -> dict[str, Tensor]:
    """{layer: [O, I] or [C], the place of each entry in the flattened weight} of every layer that is pruned. Cut together
    with the model, it says which channels are left."""
    shapes = {name: weight.shape[:2] for name, weight in scored_weights(unet).items()}
    return {name: torch.arange(math.prod(shape)).view(shape) for name, shape in shapes.items()}


def compensate(pruned: DiffusionModel, dense: DiffusionModel, kept: Mapping[str, Tensor], images: NoisedImages,
               strength: float = STRENGTH, folder: Path | None = None) -> Refitted:
    """Refits, in place, every layer of `pruned` that lost inputs, in the order of the forward pass.

    `kept`: the `positions` of the dense network, cut with it. Both models are evaluated on `images` in batches, up to one
    layer after the other. The memory holds what the evaluation of one batch needs and the matrix of one layer; what blocks
    hand to later ones lies, for all images, in files in `folder`, or where the system keeps temporary files, until all is
    done. Returns for each refitted layer the relative error ||Y - Y'|| / ||Y|| of its outputs with the cut and with the
    refitted weights, and the multiply-accumulates of its regression. Raises ValueError unless `strength` is positive.
    """
    if not strength > 0:
        raise ValueError(f"strength={strength} of the ridge is not positive")
    layers = {name: NarrowedLayer.of(pruned.unet.get_submodule(name), dense.unet.get_submodule(name), places)
              for name, places in kept.items() if places.dim() > 1}
    layers = {name: layer for name, layer in layers.items() if layer.can_be_refitted}
    size = max(1, PIXELS // images.x_t[0, 0].numel())
    with torch.no_grad(), tf32(False), temporary_sibling((folder or Path(gettempdir())) / "outputs") as place:
        batches = [Batch.of(pruned, dense, images.part(first, first + size), first, place)
                   for first in range(0, len(images.t), size)]
        refitted = {name: layers[name].refit(name, batches, strength) for name in call_order(pruned, layers, images)}
        remove_tree(place)
    return refitted


def call_order(model: DiffusionModel, names: Iterable[str], images: NoisedImages) -> list[str]:
    """Those layers among `names` that the network evaluates, in the order of their first calls."""
    order: dict[str, None] = {}
    with removed_later(model.unet.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
                       for name in names):
        one = images.part(0, 1)
        model.predict(one.x_t, one.t, one.context)
    return list(order)


@dataclass(frozen=True)
class Batch:
    """The evaluations of both models on some of the images, the first of which is the image `first` of all."""
    first: int
    pruned: Rerun
    dense: Rerun

    @classmethod
    def of(cls, pruned: DiffusionModel, dense: DiffusionModel, images: NoisedImages, first: int, place: Path) -> "Batch":
        """Of both models on these `images`; what their modules return is kept in folders in `place`."""
        return cls(first, *(Rerun(model.unet, partial(model.predict, images.x_t, images.t, images.context),
                                  place / f"{kind}-{first}") for kind, model in (("pruned", pruned), ("dense", dense))))


@dataclass(frozen=True)
class NarrowedLayer:
    """A convolution or linear layer of the pruned network and the same one of the dense network. Of its weight [O, I, ...]
    the out-channels `rows` [O'] and the in-channels `columns` [I'] are left."""
    pruned: Any
    dense: Any
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, pruned: nn.Module, dense: Any, places: Tensor) -> "NarrowedLayer":
        """`places` [O', I']: where the entries that are left lie in the dense layer's flattened weight [O * I]."""
        inputs = dense.weight.shape[1]
        return cls(pruned, dense, places[:, 0] // inputs, places[0] % inputs)

    @property
    def can_be_refitted(self) -> bool:
        """Whether the layer lost inputs and each of its outputs reads them all, as no grouped convolution's do."""
        return len(self.columns) < self.dense.weight.shape[1] and getattr(self.dense, "groups", 1) == 1

    @property
    def keeps_kernel(self) -> bool:
        """Whether the layer has too many weights for each output, so that not these are refitted but its inputs are."""
        return self.pruned.weight[0].numel() > MOST_UNKNOWNS

    def refit(self, name: str, batches: Sequence[Batch], strength: float) -> dict[str, float]:
        """Sets the pruned layer's weights by its inputs and the dense layer's outputs, or where `keeps_kernel` the dense
        layer's inputs. Returns the relative errors before and after, and what the regression cost."""
        regression, before, after = Regression(self.start()), Deviation(), Deviation()
        # What the cut weights give, and the normal equations.
        for batch in batches:
            x_dense, wanted = batch.dense.call(name)
            x, y = batch.pruned.call(name, keep=False)
            before.add(y, self.of_kept_channels(wanted))
            self.add(regression, x, x_dense if self.keeps_kernel else self.of_kept_channels(wanted), batch.first)
        # What the solution gives; a worse one, possible where not the outputs were fitted but the inputs, is given up.
        cut_weights = {key: tensor.clone() for key, tensor in self.pruned.state_dict().items()}
        self.set_weights(regression.solve(strength))
        for batch in batches:
            after.add(batch.pruned.call(name)[1], self.of_kept_channels(batch.dense.output(name)))
        if not after.relative <= before.relative:
            self.pruned.load_state_dict(cut_weights)
            for batch in batches:
                batch.pruned.forget(name)
            after = before
        return {"before": before.relative, "after": after.relative, "macs": regression.macs}

    def of_kept_channels(self, y: Tensor) -> Tensor:
        """Those channels of the dense layer's outputs `y` that the pruned layer has left."""
        return y.index_select(1 if isinstance(self.dense, nn.Conv2d) else -1, self.rows.to(y.device))

    def start(self) -> Tensor:
        """What the solution is drawn towards, [outputs, unknowns]: the cut weights with the bias as the last column, or
        where `keeps_kernel` the choice of the kept channels."""
        if self.keeps_kernel:
            return F.one_hot(self.columns, self.dense.weight.shape[1]).T.to(self.pruned.weight)
        weight, bias = self.pruned.weight.flatten(1), self.pruned.bias
        return weight if bias is None else torch.cat([weight, bias[:, None]], 1)

    def add(self, regression: "Regression", x: Tensor, wanted: Tensor, first: int) -> None:
        """Adds the inputs `x` [N, I', ...] and the `wanted` outputs of images `first`, first + 1, … at some positions."""
        outputs = by_position(wanted)
        count = len(outputs) // len(x)      # of one image
        some = torch.arange(count).expand(len(x), -1)
        if count > POSITIONS:
            some = torch.randint(count, (first + len(x), POSITIONS), generator=generator(count, Stream.COMPENSATION))[first:]
        images = max(1, ROWS // count)
        for i in range(0, len(x), images):
            inputs = x[i:i + images]
            rows = by_position(inputs) if self.keeps_kernel else patches(self.pruned, inputs)
            chosen = (some[i:i + images] + count * torch.arange(len(inputs))[:, None]).flatten().to(x.device)
            regression.add(rows[chosen], outputs[i * count:][chosen])

    def set_weights(self, solution: Tensor) -> None:
        """Gives the pruned layer the `solution` of a regression that began with `start`."""
        weight = solution
        if self.keeps_kernel:
            weight = torch.einsum("oi...,ij->oj...", self.dense.weight[self.rows.to(solution.device)].double(), solution)
        elif self.pruned.bias is not None:
            self.pruned.bias.copy_(solution[:, -1])
            weight = solution[:, :-1]
        self.pruned.weight.copy_(weight.reshape(self.pruned.weight.shape))


class Regression:
    """The normal equations of a ridge regression, float64, to which rows of inputs and outputs are added by and by.

    `start` [outputs, unknowns] is what the solution is drawn towards. Rows that have one input less than there are unknowns
    get a 1 as the last, whose unknown is the intercept.
    """

    def __init__(self, start: Tensor) -> None:
        self.start, self.rows = start.double(), 0
        self.gram = self.start.new_zeros(2 * self.start.shape[1:])
        self.moment = self.start.new_zeros(self.start.T.shape)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds `inputs` [M, unknowns or one less] and `outputs` [M, outputs]."""
        inputs = F.pad(inputs.double(), (0, len(self.gram) - inputs.shape[1]), value=1.0)
        self.gram += inputs.T @ inputs
        self.moment += inputs.T @ outputs.double()
        self.rows += len(inputs)

    def solve(self, strength: float) -> Tensor:
        """[outputs, unknowns], drawn towards the start with `strength` times the mean diagonal of the matrix."""
        pull = strength * self.gram.diagonal().mean()
        eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        return torch.linalg.solve(self.gram + pull * eye, self.moment + pull * self.start.T).T

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the matrix and the moments over all rows, and of the solution."""
        outputs, unknowns = self.start.shape
        return self.rows * unknowns * (unknowns + outputs) + unknowns**3 // 3 + unknowns**2 * outputs


class Deviation:
    """How far outputs are from those that are wanted, over all batches."""

    def __init__(self) -> None:
        self.squares = self.wanted_squares = 0.0

    def add(self, y: Tensor, wanted: Tensor) -> None:
        """Adds a batch's outputs `y`, of the shape of those that are `wanted`."""
        self.squares += float((y - wanted).double().square().sum())
        self.wanted_squares += float(wanted.double().square().sum())

    @property
    def relative(self) -> float:
        """||y - wanted|| / ||wanted||; where all that is wanted is 0, ||y||."""
        return math.sqrt(self.squares / (self.wanted_squares or 1.0))


def patches(layer: Any, x: Tensor) -> Tensor:
    """What each output of `layer` is computed from, [positions, inputs of the flattened weight]."""
    if isinstance(layer, nn.Conv2d):
        unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return unfolded.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


def by_position(y: Tensor) -> Tensor:
    """[positions, channels] of a layer's inputs or outputs [N, C, H, W] or [..., C]."""
    return y.flatten(2).transpose(1, 2).flatten(0, 1) if y.dim() == 4 else y.flatten(0, -2)


@contextmanager
def removed_later(hooks: Iterable[RemovableHandle]) -> Generator[None]:
    """Registers the `hooks`, which are gone after the context."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
