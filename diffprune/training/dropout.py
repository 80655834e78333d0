"""Dropout whose draws belong to the whole batch of a step, however that is split over ranks and micro-batches."""

import torch
from diffusers.models.embeddings import LabelEmbedding
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from diffprune.diffusion.randomness import Stream, generator


class Masks:
    """The masks of one step: each layer in turn draws for all `size` images, and uses the `rows` that it works on."""

    def __init__(self, device: torch.device) -> None:
        self.stream, self.size, self.rows = torch.Generator(device), 0, slice(0)

    def begin(self, seed: int, step: int, size: int, rows: slice) -> None:
        """To be called before each pass over `rows` of the `size` images of `step`."""
        self.stream.manual_seed(generator(seed, Stream.DROPOUT, step).initial_seed())
        self.size, self.rows = size, rows

    def draw(self, like: Tensor, probability: float) -> Tensor:
        """The factors of `like` [n, ...]: 0 or 1 / (1 - probability)."""
        # Random kernels fill memory in order: draws follow the memory layout of `like`, as those of nn.Dropout do.
        by_pixel = like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
        masks = torch.empty((self.size, *like.shape[1:]), dtype=like.dtype, device=like.device,
                            memory_format=torch.channels_last if by_pixel else torch.contiguous_format)
        return masks.bernoulli_(1 - probability, generator=self.stream)[self.rows].div_(1 - probability)


class BatchDropout(nn.Module):
    """`nn.Dropout` with the draws of `masks`; for an unsplit batch on a CPU these are nn.Dropout's own."""

    def __init__(self, p: float, masks: Masks) -> None:
        super().__init__()
        self.p, self.masks = p, masks

    def forward(self, x: Tensor) -> Tensor:
        return x * self.masks.draw(x, self.p) if self.training and self.p else x


def set_dropout(unet: nn.Module, probability: float) -> Masks:
    """Sets dropout inside the residual blocks, where the original models have it, and nowhere else; returns its masks. A
    network's own dropping of classes, by draws that no step repeats, is off."""
    masks = Masks(next(unet.parameters()).device)
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout = BatchDropout(probability, masks)  # ty: ignore[invalid-assignment]  diffusers types it nn.Dropout
        elif isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0
    return masks
