"""What surrounds the network that predicts noise in one kind of diffusion model: the protocol that a family implements."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from diffprune.models.network import config_of, height_and_width
from diffprune.runtime.errors import UserError

Shape = tuple[int, int, int]

TIME_IDS = 6        # numbers that an SDXL UNet is given of an image: its original height and width, where it was cropped, …

# Blocks whose norms scale and shift each channel by the timestep, and blocks whose attention has keys of two kinds.
NOT_NARROWED = ("KDown", "KUp", "KCross", "SimpleCross")
# What diffusers' UNets take besides the timestep and `encoder_hidden_states`.
CONDITIONS = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


@dataclass
class Family:
    """The fixed networks around a noise predictor `unet`, and how they work together; this one has none, in pixel space.

    A subclass names its predictors' classes (`kinds`), the folder of the predictor in a model folder (`folder`), and by
    their folders (`fixed`) its fixed networks, which are also its fields: the class of each in diffusers, or what reads it
    from its folder. Folders that it has no use for are `ignored`. Every defined subclass is in `registered`; a predictor
    belongs to the first of them that has its class and all of its fixed networks.
    """
    kinds: ClassVar[tuple[type[nn.Module], ...]] = ()
    folder: ClassVar[str] = "unet"
    fixed: ClassVar[Mapping[str, type[nn.Module] | Callable[[Path], Any]]] = {}
    ignored: ClassVar[Collection[str]] = ()
    conditions: ClassVar[Collection[str]] = CONDITIONS      # options of a predictor that it does not know what to do with
    registered: ClassVar[list[type["Family"]]] = []

    def __init_subclass__(cls) -> None:
        Family.registered.append(cls)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """{folder: fixed network} of those that this model has."""
        return {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), nn.Module)}

    @property
    def has_unconditional(self) -> bool:
        """Whether label C of C classes stands for none, as guidance needs it."""
        return False

    def class_count(self, unet: nn.Module) -> int | None:
        """How many classes C it draws, with labels 0 to C - 1; None if unconditional."""
        return config_of(unet).get("num_class_embeds")

    def shape(self, unet: nn.Module) -> Shape:
        """(C, H, W) of what `unet` denoises."""
        return config_of(unet)["in_channels"], *height_and_width(unet)

    def image_shape(self, unet: nn.Module) -> Shape:
        """(C, H, W) of the images that are drawn."""
        return self.shape(unet)

    def encode(self, images: Tensor) -> Tensor:
        """What `unet` denoises, [B, c, h, w], of `images` [B, C, H, W] in [-1, 1]."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], about [-1, 1], of clean `latents` [B, c, h, w]: the inverse of `encode`."""
        return latents

    def condition(self, labels: Tensor) -> Tensor | None:
        """What `predict` is given of the classes `labels` [B] of a conditional model, with B as its first axis."""
        return labels

    def predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """What `unet` predicts [B, c, h, w], or with a variance [B, 2c, h, w], for `x_t` at timesteps `t` [B]."""
        return unet(x_t, t).sample if condition is None else unet(x_t, t, class_labels=condition).sample

    @classmethod
    def example_inputs(cls, unet: nn.Module) -> dict[str, Any]:
        """Arguments of one evaluation on one image, in the order of the network's signature, on its device."""
        device, config = next(unet.parameters()).device, config_of(unet)
        size = (1, config["in_channels"], *height_and_width(unet))
        inputs: dict[str, Any] = {"sample": torch.zeros(size, device=device),
                                  "timestep": torch.ones(1, dtype=torch.long, device=device)}
        if config.get("num_class_embeds"):
            inputs["class_labels"] = torch.zeros(1, dtype=torch.long, device=device)
        return inputs

    def pipeline(self, unet: Any, scheduler: Any) -> DiffusionPipeline:
        """The diffusers pipeline that draws with these networks, which also decides how a model folder is laid out."""
        from diffprune.models.families.pipelines import DDIMPipeline, DDPMPipeline
        return (DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline)(unet=unet, scheduler=scheduler)

    def check(self, unet: nn.Module, name: str) -> None:
        """Raises UserError where the model `name` cannot be pruned, or not be scored, sampled and trained."""
        check_blocks(unet)
        if given := [option for option in self.conditions if config_of(unet).get(option) is not None]:
            raise UserError(f"model={name} is conditional by its {', '.join(given)}: only models of classes or prompts can "
                            "be scored, sampled and trained here")
        if config_of(unet).get("time_embedding_type") == "fourier":
            raise UserError(f"model={name} is given the logarithm of a noise level (time_embedding_type=fourier): only "
                            "models that are given a timestep can be scored, sampled and trained here")


@dataclass
class TextFamily(Family):
    """A family whose models draw what a prompt says: label i stands for the i-th of `prompts`, the label after the last for
    the empty prompt. A subclass says how prompts are `embedded`."""
    prompts: Sequence[str] = ()

    @property
    def has_unconditional(self) -> bool:
        return True

    def class_count(self, unet: nn.Module) -> int | None:
        return len(self.prompts)

    @torch.no_grad()
    def condition(self, labels: Tensor) -> Tensor | None:
        texts = [*self.prompts, ""]
        return self.embedded([texts[label] for label in labels.tolist()])

    def embedded(self, prompts: list[str]) -> Tensor:
        """What `predict` is given of `prompts`, with one of them along the first axis."""
        raise NotImplementedError


def check_blocks(unet: nn.Module) -> None:
    """UserError where `unet` has blocks that pruning does not know how to narrow."""
    kinds = {kind for option in ("down_block_types", "up_block_types") for kind in config_of(unet).get(option) or ()}
    if refused := sorted(kind for kind in kinds if kind.startswith(NOT_NARROWED)):
        raise UserError(f"the {type(unet).__name__} has blocks of a kind that cannot be pruned here ({', '.join(refused)}): "
                        "give a model of other blocks")


def family_for(kind: type[nn.Module], folders: Collection[str] = ()) -> type[Family]:
    """The family of predictors of class `kind` that has fixed networks in `folders`, of which others do not count.

    A class that belongs to no family is that of an unconditional predictor of pixels.
    """
    families = [family for family in Family.registered if issubclass(kind, family.kinds)]
    needed = {name for family in families for name in family.fixed} & set(folders)
    return next((family for family in families if needed <= set(family.fixed)), Family)


def predictors() -> dict[str, type[nn.Module]]:
    """The classes of noise predictors that can be loaded, by name."""
    return {kind.__name__: kind for family in Family.registered for kind in family.kinds}
