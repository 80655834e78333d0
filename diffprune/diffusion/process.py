"""The forward process of a diffusion model, what its network predicts of it, and DDIM's way back, on tensors alone.

Symbols: t timestep in 0 … T-1, x_0 clean images in [-1, 1], eps unit Gaussian noise, and x_t = a_t x_0 + s_t eps with the
signal a_t and the noise s_t. A DDPM has a_t = sqrt(alpha_bar_t), s_t = sqrt(1 - alpha_bar_t), where alpha_bar_t is the
product of 1 - beta up to t (Ho et al. 2020, eq. 4); flow matching has a_t = 1 - s_t (Lipman et al. 2023), EDM has a_t = 1
(Karras et al. 2022).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from diffprune.diffusion.randomness import Noise

Predictor = Callable[[Tensor, Tensor], Tensor]   # (x_t [B, C, H, W], t [B]) -> the network's prediction [B, C, H, W]


@dataclass(frozen=True)
class Process:
    """x_t = signal_t x_0 + noise_t eps for `signal` and `noise` [T], and what the network is trained to predict.

    `prediction`: "epsilon", the noise eps; "sample", x_0; "v_prediction", a_t eps - s_t x_0 (Salimans and Ho 2022); "flow",
    the velocity eps - x_0; or "edm", the F of x_0 = c_skip x_t + c_out F, with the coefficients of Karras et al. 2022, table
    1, for data of standard deviation `sigma_data` (negative where F has the opposite sign). `times` [T]: what the network is
    given for each timestep, the timestep itself where it is None.
    """
    signal: Tensor
    noise: Tensor
    prediction: str = "epsilon"
    times: Tensor | None = None
    sigma_data: float = 0.5

    @classmethod
    def ddpm(cls, alpha_bar: Tensor, prediction: str = "epsilon") -> "Process":
        """The process of a DDPM with `alpha_bar` [T]."""
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), prediction)

    @classmethod
    def flow(cls, sigma: Tensor, scale: float) -> "Process":
        """Linear interpolation to noise of `sigma` [T] in (0, 1]; the network is given `scale` sigma."""
        return cls(1 - sigma, sigma, "flow", scale * sigma)

    @classmethod
    def edm(cls, sigma: Tensor, sigma_data: float) -> "Process":
        """Noise of standard deviation `sigma` [T]; the network is given log(sigma) / 4."""
        return cls(torch.ones_like(sigma), sigma, "edm", sigma.log() / 4, sigma_data)

    @property
    def timesteps(self) -> int:
        """T, of how many timesteps."""
        return len(self.signal)

    def to(self, device: torch.device) -> "Process":
        times = None if self.times is None else self.times.to(device)
        return replace(self, signal=self.signal.to(device), noise=self.noise.to(device), times=times)

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t at timesteps `t` [B], or at one of them, as [B, 1, 1, 1] of the type of `like`."""
        return self.signal[t].to(like.dtype).view(-1, 1, 1, 1), self.noise[t].to(like.dtype).view(-1, 1, 1, 1)

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t of images and noise [B, C, H, W] at timesteps `t` [B]."""
        a, s = self.scales(t, x_0)
        return a * x_0 + s * eps

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is given for `x_t` [B, C, H, W] at timesteps `t` [B]: EDM's of unit variance, and times."""
        if self.times is None:
            return x_t, t
        if self.prediction == "edm":
            _, s = self.scales(t, x_t)
            x_t = x_t / (s.square() + self.sigma_data**2).sqrt()
        return x_t, self.times[t]

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network is trained to predict for `x_0` and `eps` [B, C, H, W] at timesteps `t` [B]."""
        a, s = self.scales(t, x_0)
        match self.prediction:
            case "epsilon":
                return eps
            case "sample":
                return x_0
            case "v_prediction":
                return a * eps - s * x_0
            case "flow":
                return eps - x_0
        skip, out = self.coefficients(a, s)
        return (x_0 - skip * (a * x_0 + s * eps)) / out

    def coefficients(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """c and d of x_0 = c x_t + d (the prediction), where signal and noise are `a` and `s`."""
        match self.prediction:
            case "epsilon":
                return 1 / a, -s / a
            case "sample":
                return torch.zeros_like(a), torch.ones_like(a)
            case "v_prediction":
                return a, -s
            case "flow":
                return torch.ones_like(a), -s
        variance = s.square() + self.sigma_data**2
        return self.sigma_data**2 / variance, s * self.sigma_data / variance.sqrt()

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and eps [B, C, H, W] by the `prediction` for `x_t` at timesteps `t`."""
        a, s = self.scales(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - s * prediction) / a, prediction
        skip, out = self.coefficients(a, s)
        x_0 = skip * x_t + out * prediction
        if self.prediction in ("v_prediction", "flow"):       # without the division by s, which is small at the first ones
            return x_0, (s if self.prediction == "v_prediction" else 1) * x_t + a * prediction
        return x_0, (x_t - a * x_0) / s

    def min_snr(self, t: Tensor, gamma: float | None) -> Tensor | float:
        """The weight of the squared error at timesteps `t` [B] that is min(SNR, gamma) on x_0 (Hang et al. 2023, SNR being
        a_t^2 / s_t^2): min(1, gamma / SNR) where the noise is predicted. 1 for gamma None."""
        if gamma is None:
            return 1.0
        a, s = self.signal[t], self.noise[t]
        if self.prediction == "epsilon":
            return (gamma * s.square() / a.square()).clamp(max=1)
        return (a / s).square().clamp(max=gamma) * self.coefficients(a, s)[1].square()


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


def ddim_step(x_0: Tensor, eps: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor], eta: float = 0.0,
              fresh: Tensor | None = None) -> Tensor:
    """x at the next, less noisy timestep, by the predicted `x_0` and `eps` (Song et al. 2021, eq. 12, sigma from eq. 16).

    `here` and `there` are signal and noise before and after the step. `fresh` is the noise that eta > 0 needs.
    """
    (a, s), (a_next, s_next) = here, there
    if fresh is None:
        return a_next * x_0 + s_next * eps
    sigma = eta * (s_next / s) * (1 - (a / a_next).square()).clamp(min=0).sqrt()
    return a_next * x_0 + (s_next.square() - sigma.square()).clamp(min=0).sqrt() * eps + sigma * fresh


def ddim(predict: Predictor, x_T: Tensor, timesteps: Sequence[int], process: Process, eta: float = 0.0,
         noise: Noise | None = None, clip: bool = False) -> Tensor:
    """Images x_0 from unit noise `x_T` [B, C, H, W]: from each of the ascending `timesteps` to the one before, and from the
    first to the image.

    With eta 0 this is Euler's method for flow matching and EDM. `noise` gives the draws that eta > 0 needs, which is for a
    DDPM's process alone. `clip` limits each x_0 to [-1, 1]. One network evaluation per entry of `timesteps`.
    """
    x = x_T * process.noise[timesteps[-1]].clamp(min=1)     # EDM's noise is larger than its data
    clean = torch.ones((), device=x.device), torch.zeros((), device=x.device)
    for i in reversed(range(len(timesteps))):
        t = torch.full((len(x),), timesteps[i], device=x.device, dtype=torch.long)
        x_0, eps = process.split(predict(x, t).float(), x, t)
        there = process.scales(timesteps[i - 1], x) if i else clean
        fresh = noise.draw(x.shape[1:]).to(x.device) if eta and noise else None
        x = ddim_step(x_0.clamp(-1, 1) if clip else x_0, eps, process.scales(timesteps[i], x), there, eta, fresh)
    return x
