"""The mathematics of a denoising diffusion model, on tensors alone.

Symbols: t timestep in 0 … T-1, alpha_bar_t the product of 1 - beta up to t, x_0 clean images in [-1, 1], eps unit
Gaussian noise, x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).
"""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum

import torch
from torch import Generator, Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]   # (x_t [B, C, H, W], t [B]) -> eps [B, C, H, W]


class Stream(IntEnum):
    """What a random stream is for: streams of one seed never meet."""
    ORDER = 1
    FLIP = 2
    CALIBRATION = 3
    CHANNELS = 4
    WEIGHTS = 5
    TRAINING = 6
    DROPOUT = 7
    IMAGE = 8


def generator(*keys: int) -> Generator:
    """A CPU generator seeded by `keys` (non-negative integers), any two tuples of which give unrelated streams."""
    state = 0x9E3779B97F4A7C15
    for key in keys:                # SplitMix64's finaliser after each key
        state = (state ^ int(key)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return Generator().manual_seed(state % 2**63)


class Noise:
    """Gaussian noise in which every image has a stream of its own: image i's draws depend on (seed, i) alone."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self.streams = [generator(seed, Stream.IMAGE, index) for index in indices]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next draw of every stream, [len(indices), *shape], float32 on the CPU."""
        return torch.stack([torch.randn(tuple(shape), generator=stream) for stream in self.streams])


def noise_for(indices: Sequence[int], shape: Sequence[int], seed: int) -> Tensor:
    """The starting noise x_T of the images `indices`: [len(indices), *shape]."""
    return Noise(indices, seed).draw(shape)


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t for `alpha_bar` [B], one per image (Ho et al. 2020, eq. 4)."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps


def antithetic_timesteps(count: int, total: int, rng: Generator) -> Tensor:
    """`count` timesteps in 0 … total-1: count//2 + 1 uniform draws joined with total-1-t, cut to `count`."""
    half = torch.randint(0, total, (count // 2 + 1,), generator=rng)
    return torch.cat([half, total - 1 - half])[:count]


def uniform_timesteps(steps: int, total: int) -> list[int]:
    """Every (total // steps)-th timestep from 0, ascending, exactly `steps` of them."""
    return list(range(0, total, total // steps))[:steps]


def quad_timesteps(steps: int, total: int) -> list[int]:
    """int(linspace(0, sqrt(.8 total), steps) ** 2), ascending; low ones repeat (DDIM's spacing for CIFAR-10)."""
    end = math.sqrt(0.8 * total)
    # numpy's linspace: the last value is the end itself, so that 800 does not become 799.
    points = [i * (end / (steps - 1)) for i in range(steps - 1)] + [end] if steps > 1 else [0.0]
    return [int(point**2) for point in points]


SPACINGS = {"uniform": uniform_timesteps, "quad": quad_timesteps}


def ddim_step(x_t: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, eta: float = 0.0,
              noise: Tensor | None = None, clip: bool = False) -> Tensor:
    """x at the next, less noisy timestep (Song et al. 2021, eq. 12 with sigma from eq. 16); alpha_bars are scalars."""
    x_0 = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    if clip:
        x_0 = x_0.clamp(-1, 1)
    sigma = eta * ((1 - alpha_bar / alpha_bar_next) * (1 - alpha_bar_next) / (1 - alpha_bar)).clamp(min=0).sqrt()
    x = alpha_bar_next.sqrt() * x_0 + (1 - alpha_bar_next - sigma**2).sqrt() * eps
    return x if noise is None else x + sigma * noise


def ddim(denoise: Denoiser, x_T: Tensor, timesteps: Sequence[int], alpha_bar: Tensor, eta: float = 0.0,
         noise: Noise | None = None, clip: bool = False) -> Tensor:
    """Images x_0 from `x_T` [B, C, H, W]: from each of the ascending `timesteps` to the one before, last to alpha_bar 1.

    `alpha_bar` is [T]; `noise` gives the draws that eta > 0 needs. One network evaluation per entry of `timesteps`.
    """
    x, one = x_T, torch.ones((), device=x_T.device)
    for i in reversed(range(len(timesteps))):
        t = torch.full((len(x),), timesteps[i], device=x.device, dtype=torch.long)
        a, a_next = alpha_bar[timesteps[i]], alpha_bar[timesteps[i - 1]] if i else one
        fresh = noise.draw(x.shape[1:]).to(x.device) if eta and noise else None
        x = ddim_step(x, denoise(x, t).float(), a, a_next, eta, fresh, clip)
    return x


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, rounded to nearest, [B, C, H, W] -> [B, H, W, C]."""
    return ((x + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(images: Tensor) -> Tensor:
    """Bytes [B, C, H, W] as float32 images in [-1, 1], the same bits on every device."""
    # By a tensor on the device: CUDA multiplies by the reciprocal of a plain number, which is one bit off now and then.
    divisor = torch.full((), 127.5, device=images.device)
    return images.to(torch.float32, copy=True).div_(divisor).sub_(1)    # in place: fresh memory costs more than the sums
