"""How images are drawn: the options that decide the bits of an image, and the key that follows from them."""

from dataclasses import dataclass, field
from typing import Any

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.identity import computation


@dataclass(frozen=True)
class SamplerOptions:
    """DDIM over `steps` of the model's timesteps, evenly ("uniform") or quadratically ("quad") spaced.

    `eta` in [0, 1]: 0 is deterministic, 1 as noisy as DDPM. `clip` limits the predicted x_0 to [-1, 1]. `guidance` is the
    scale of classifier-free guidance, None for none; `seed` that of the starting noise of image 0, 1, ….
    """
    steps: int
    spacing: str = "uniform"
    eta: float = 0.0
    clip: bool = False
    guidance: float | None = None
    seed: int = 0
    name: str = "ddim"

    def protocol(self) -> dict[str, Any]:
        """The options as a run's files state them; guidance is left out where there is none."""
        options = {name: getattr(self, name) for name in ("name", "spacing", "steps", "eta", "clip", "seed")}
        return options if self.guidance is None else options | {"guidance": self.guidance}


@dataclass(frozen=True)
class Drawing:
    """A set of `count` images that is drawn `batch` images at a time."""
    count: int
    options: SamplerOptions
    batch: int = 256
    execution: Execution = field(default_factory=Execution)

    def key(self, model: DiffusionModel) -> dict[str, Any]:
        """What decides the bits of the images: the model, the sampler with its seed, how many images, how many at once (a
        batch rounds differently from another), and what the network is evaluated with; `draw` takes one thread."""
        how = self.execution
        return {"model": model.key, "images": self.count, "batch": self.batch, "sampler": self.options.protocol(),
                **computation(how.device, how.precision, how.memory_format, how.compile, threads=1)}
