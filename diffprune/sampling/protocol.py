"""How images are drawn: the options that decide the bits of an image, and the key that follows from them."""

from dataclasses import dataclass, field
from typing import Any

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.identity import computation
from diffprune.models.scheduler_steps import check_scheduler
from diffprune.runtime.errors import UserError


@dataclass(frozen=True)
class SamplerOptions:
    """DDIM over `steps` of the model's timesteps, evenly ("uniform") or quadratically ("quad") spaced, or the `scheduler` of
    diffusers that is given, {"_target_": its class, and its options}, in so many steps.

    `eta` in [0, 1]: 0 is deterministic, 1 as noisy as DDPM. `clip` limits DDIM's predicted x_0 to [-1, 1]. `guidance` is the
    scale of classifier-free guidance, None for none; `seed` that of the starting noise of image 0, 1, ….
    """
    steps: int
    spacing: str = "uniform"
    eta: float = 0.0
    clip: bool = False
    guidance: float | None = None
    seed: int = 0
    name: str = "ddim"
    scheduler: dict[str, Any] | None = None

    def check(self, model: DiffusionModel, name: str) -> None:
        """UserError where nothing can be drawn so with the `model` of this name."""
        if self.steps > (timesteps := model.process.timesteps):
            raise UserError(f"sampler.steps={self.steps} are more than the {timesteps} timesteps of model={name}: "
                            f"give sampler.steps={timesteps} or less")
        if self.scheduler is not None:
            check_scheduler(model.scheduler, self.scheduler, self.steps, self.eta)
        elif self.eta and model.process.times is not None:
            raise UserError(f"sampler.eta={self.eta:g} is for models in betas, model={name} has none: give sampler.eta=0")
        elif self.steps > 1 and model.process.signal[-1] == 0 and model.process.prediction == "epsilon":
            raise UserError(f"the betas of model={name} leave no signal at the last timestep (alpha_bar is 0), from where "
                            "no image can be drawn: give smaller ones, or until=prune")

    def protocol(self) -> dict[str, Any]:
        """The options as a run's files state them, but for those that do not hold."""
        own = ("name", "scheduler", "steps", "eta", "seed") if self.scheduler else (
            "name", "spacing", "steps", "eta", "clip", "seed")
        options = {name: getattr(self, name) for name in own}
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
