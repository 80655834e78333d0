"""The denoising loss on images that a model was not trained on, with the same noise for every model: it needs no sampling,
and since it is paired, few runs tell two models apart."""

import torch
from torch import Tensor

from diffprune.data.loading.images import ImageSet
from diffprune.diffusion.pixels import from_uint8
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.diffusion_model import DiffusionModel

NOISED = 1024       # noised images that are evaluated at most; the held-out ones are taken in turn
RANGES = 16         # equal ranges of timesteps, each with as many of them; no image is noised more often than that


@torch.no_grad()
def held_out_loss(model: DiffusionModel, images: ImageSet, batch: int) -> list[float]:
    """The mean of |target - prediction|², summed over C, H, W, in each of the RANGES from the first timestep to the last.

    Timesteps are evenly spaced over 0 … T - 1, in an order that is always the same, and noise is that of the place in it:
    nothing depends on a run's seed. The network is in evaluation mode meanwhile, in float32, and sees `batch` at once.
    """
    count, was_training = min(NOISED, RANGES * len(images)), model.unet.training
    timesteps, ranges = noised_timesteps(model.process.timesteps, count)
    places, errors = torch.arange(count), []
    model.unet.eval()
    try:
        shown = images.taken((places % len(images)).split(batch))
        for some, (pixels, labels) in zip(places.split(batch), shown, strict=True):
            x_0, t = model.to_latent(from_uint8(pixels).to(model.device)), timesteps[some].to(model.device)
            eps = torch.stack([torch.randn(x_0.shape[1:], generator=generator(0, Stream.HELD_OUT, int(place)))
                               for place in some]).to(x_0)
            x_t, target = model.process.add_noise(x_0, eps, t), model.process.target(x_0, eps, t)
            predicted = model.predict(x_t, t, model.context(labels)).float()
            errors.append((predicted - target).square().flatten(1).sum(1).cpu())
    finally:
        model.unet.train(was_training)
    error = torch.cat(errors).double()
    return [float(error[ranges == i].mean()) for i in range(RANGES)]


def noised_timesteps(total: int, count: int = NOISED) -> tuple[Tensor, Tensor]:
    """Of each of `count` noised images the timestep below `total` and which of the RANGES it is in, int64."""
    order = torch.randperm(count, generator=generator(0, Stream.HELD_OUT))
    return ((order + 0.5) * total / count).long(), order * RANGES // count
