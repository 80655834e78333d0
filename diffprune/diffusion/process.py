"""The forward process of a diffusion model and DDIM's way back, on tensors alone.

Symbols: t timestep in 0 … T-1, alpha_bar_t the product of 1 - beta up to t, x_0 clean images in [-1, 1], eps unit
Gaussian noise, x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from diffprune.diffusion.randomness import Noise

Denoiser = Callable[[Tensor, Tensor], Tensor]   # (x_t [B, C, H, W], t [B]) -> eps [B, C, H, W]


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
