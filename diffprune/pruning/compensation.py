"""Compensation of a cut in closed form: each layer that lost inputs is refitted to the dense layer's outputs.

For a layer with inputs X (those of the pruned model, whose earlier layers are refitted already) and the dense layer's
outputs Y on the kept channels, ridge regression minimises

    ||Y - W X - b||^2 + s ||(W, b) - (W0, b0)||^2,     s = strength * mean diagonal of X X^T,

where W0, b0 are the cut weights, so that a direction in which X hardly varies keeps them.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from diffprune.diffusion.process import add_noise
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.dependency import scored_weights

STRENGTH = 1e-3
MOST_UNKNOWNS = 8192    # of one output channel; with more, a layer's kernel is kept and its channels are regressed
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
        t = torch.randint(0, len(model.alpha_bar), (len(x_0),), generator=rng).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=rng).to(x_0)
        return cls(add_noise(x_0, eps, model.alpha_bar.to(x_0)[t]), t, context)


def positions(unet: nn.Module) -> dict[str, Tensor]:
    """{layer: [O, I] or [C], the place of each entry in the flattened weight} of every layer that is pruned. Cut together
    with the model, it says which channels are left."""
    shapes = {name: weight.shape[:2] for name, weight in scored_weights(unet).items()}
    return {name: torch.arange(math.prod(shape)).view(shape) for name, shape in shapes.items()}


def compensate(pruned: DiffusionModel, dense: DiffusionModel, kept: Mapping[str, Tensor], images: NoisedImages,
               strength: float = STRENGTH) -> Refitted:
    """Refits, in place, every layer of `pruned` that lost inputs, in the order of the forward pass.

    `kept`: the `positions` of the dense network, cut with it. Both models are evaluated once on `images`, layer by layer in
    turn; the memory holds their activations of all images and the matrix of one layer. Returns for each refitted layer the
    relative error ||Y - Y'|| / ||Y|| of its outputs with the cut and with the refitted weights, and the multiply-accumulates
    of its regression. Raises ValueError unless `strength` is positive.
    """
    if not strength > 0:
        raise ValueError(f"strength={strength} of the ridge is not positive")
    layers = {name: NarrowedLayer.of(pruned.unet.get_submodule(name), dense.unet.get_submodule(name), places)
              for name, places in kept.items() if places.dim() > 1}
    layers = {name: layer for name, layer in layers.items() if layer.can_be_refitted}
    refitted: Refitted = {}
    with torch.no_grad(), dense_layers(dense, layers, images) as take:
        def refit(name: str, inputs: Tensor) -> None:
            inputs_and_outputs = take(name)
            if name not in refitted:      # a layer that is called again keeps its weights
                refitted[name] = layers[name].refit(inputs, *inputs_and_outputs, strength)

        with removed_later(layer.pruned.register_forward_pre_hook(lambda _, given, name=name: refit(name, given[0]))
                           for name, layer in layers.items()):
            pruned.denoise(images.x_t, images.t, images.context)
    return refitted


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

    def refit(self, x: Tensor, x_dense: Tensor, y: Tensor, strength: float) -> dict[str, float]:
        """Sets the pruned layer's weights by its inputs `x` [N, I', ...], the dense layer's inputs `x_dense` [N, I, ...] and
        outputs `y` [N, O, ...] (channels are last for a linear layer). Returns the relative errors before and after, and
        what the regression cost."""
        layer, y = self.pruned, y.index_select(1 if isinstance(self.dense, nn.Conv2d) else -1, self.rows.to(y.device))
        before = relative_error(layer.forward(x), y)
        cut_weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        if layer.weight[0].numel() <= MOST_UNKNOWNS:
            weight, bias = ridge(layer, x, y, strength)
            macs = ridge_macs(len(by_position(y)), layer.weight[0].numel() + (bias is not None), len(weight))
        else:
            weight, bias = self.through_channels(x, x_dense, strength), layer.bias
            macs = ridge_macs(len(by_position(x)), len(self.columns), self.dense.weight.shape[1])
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        after = relative_error(layer.forward(x), y)
        if not after <= before:     # possible where not the outputs were fitted, but the inputs
            layer.load_state_dict(cut_weights)
            after = before
        return {"before": before, "after": after, "macs": macs}

    def through_channels(self, x: Tensor, x_dense: Tensor, strength: float) -> Tensor:
        """The dense kernel, applied to the dense input channels as a regression on the kept ones gives them; [O', I', ...].

        A ridge regression of `x_dense` on `x`, channel by channel, towards the choice of the kept channels: it has far fewer
        unknowns than one for each weight of the kernel.
        """
        mix = nn.Linear(len(self.columns), self.dense.weight.shape[1], bias=False).to(x)
        mix.weight.copy_(F.one_hot(self.columns, len(mix.weight)).T)
        weight, _ = ridge(mix, by_position(x), by_position(x_dense), strength)
        return torch.einsum("oi...,ij->oj...", self.dense.weight[self.rows.to(x.device)].double(), weight)


def ridge(layer: Any, x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of `layer`, float64, that map its inputs `x` to the outputs `y` best, drawn towards those it has."""
    start = layer.weight.flatten(1).double()
    if layer.bias is not None:
        start = torch.cat([start, layer.bias[:, None].double()], 1)
    gram, moment = x.new_zeros(2 * start.shape[1:], dtype=torch.float64), x.new_zeros(start.T.shape, dtype=torch.float64)
    size = max(1, ROWS * len(x) // len(by_position(y)))
    for some_x, some_y in zip(x.split(size), y.split(size), strict=True):
        rows = patches(layer, some_x).double()
        if layer.bias is not None:
            rows = F.pad(rows, (0, 1), value=1.0)
        gram += rows.T @ rows
        moment += rows.T @ by_position(some_y).double()
    pull = strength * gram.diagonal().mean()
    solution = torch.linalg.solve(gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device),
                                  moment + pull * start.T).T
    if layer.bias is None:
        return solution.view_as(layer.weight), None
    return solution[:, :-1].reshape(layer.weight.shape), solution[:, -1]


def ridge_macs(positions: int, unknowns: int, outputs: int) -> int:
    """Multiply-accumulates of a regression: of the Gram matrix and the moments over all positions, and of the solution."""
    return positions * unknowns * (unknowns + outputs) + unknowns**3 // 3 + unknowns**2 * outputs


def patches(layer: Any, x: Tensor) -> Tensor:
    """What each output of `layer` is computed from, [positions, inputs of the flattened weight]."""
    if isinstance(layer, nn.Conv2d):
        unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return unfolded.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


def by_position(y: Tensor) -> Tensor:
    """[positions, channels] of a layer's inputs or outputs [N, C, H, W] or [..., C]."""
    return y.flatten(2).transpose(1, 2).flatten(0, 1) if y.dim() == 4 else y.flatten(0, -2)


def relative_error(y: Tensor, wanted: Tensor) -> float:
    """||y - wanted|| / ||wanted||; of outputs that are all 0, the size of `y`."""
    norm = float(wanted.double().norm())
    return float((y - wanted).double().norm()) / (norm or 1.0)


@contextmanager
def removed_later(hooks: Iterable[RemovableHandle]) -> Generator[None]:
    """Registers the `hooks`, which are gone after the context."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def dense_layers(dense: DiffusionModel, layers: Mapping[str, NarrowedLayer], images: NoisedImages
                 ) -> Generator[Callable[[str], tuple[Tensor, Tensor]]]:
    """Yields a function that gives inputs and outputs of the dense layer of that name.

    The dense model is evaluated in a thread that waits at each layer until the previous one was taken, since the outputs of
    all layers together would not fit into the memory.
    """
    handed: Queue[tuple[str, Any]] = Queue(1)
    closing = Event()

    def hand(name: str, *content: Tensor) -> None:
        handed.put((name, tuple(tensor.clone() for tensor in content)))     # the network may go on to change them in place
        if closing.is_set():
            raise InterruptedError

    def evaluate() -> None:
        try:
            with torch.no_grad():
                dense.denoise(images.x_t, images.t, images.context)
        except Exception as error:      # of any kind: it is raised where the layer is asked for
            handed.put(("", error))

    def take(name: str) -> tuple[Tensor, Tensor]:
        layer, content = handed.get()
        if isinstance(content, Exception):
            raise content
        assert layer == name, f"the dense model evaluates {layer} where the pruned one evaluates {name}"
        return content

    thread = Thread(target=evaluate, daemon=True)
    with removed_later(layer.dense.register_forward_hook(lambda _, given, y, name=name: hand(name, given[0], y))
                       for name, layer in layers.items()):
        thread.start()
        try:
            yield take
        finally:
            closing.set()
            while thread.is_alive():        # it may wait for its last layer to be taken
                with suppress(Empty):
                    handed.get(timeout=0.05)
