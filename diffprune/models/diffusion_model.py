"""A noise predictor with its noise schedule and what its family puts around it."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from diffprune.diffusion.process import Predictor, Process
from diffprune.models.families import Family, family_for
from diffprune.models.families.family import TextFamily
from diffprune.models.identity import model_key
from diffprune.models.noise_schedule import process_of
from diffprune.runtime.errors import UserError


@dataclass
class DiffusionModel:
    """A noise predictor `unet`, which alone is pruned and trained, its noise schedule, and the fixed networks of its family.

    Without `family`, that of the network's class without fixed networks: most often an unconditional model of pixels.
    """
    unet: nn.Module
    scheduler: Any
    family: Family = field(default_factory=Family)
    _process: Process = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """UserError for a scheduler of a process that is not known here."""
        self._process = process_of(self.scheduler)
        if type(self.family) is Family:     # not given
            self.family = family_for(type(self.unet))()

    @property
    def networks(self) -> list[nn.Module]:
        """The noise predictor and the fixed networks around it."""
        return [self.unet, *self.family.networks.values()]

    @property
    def device(self) -> torch.device:
        """Where the noise predictor is."""
        return next(self.unet.parameters()).device

    def to(self, device: torch.device) -> "DiffusionModel":
        """Moves every network to `device`, and returns the same model."""
        for network in self.networks:
            network.to(device)
        return self

    @property
    def process(self) -> Process:
        """What is noised and predicted, on the device of the network."""
        if self._process.signal.device != self.device:
            self._process = self._process.to(self.device)
        return self._process

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the noise predictor denoises."""
        return self.family.shape(self.unet)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it draws."""
        return self.family.image_shape(self.unet)

    @property
    def classes(self) -> int | None:
        """How many classes or prompts it draws, None if unconditional; of a conditional model the label after the last is
        that of no class."""
        return self.family.class_count(self.unet)

    @property
    def key(self) -> str:
        """Hex digest of all that decides what this model computes: caches of its results are filed under it."""
        key = model_key(self.networks, self.scheduler, type(self.family))
        if isinstance(self.family, TextFamily):
            key = sha256("\0".join([key, *self.family.prompts]).encode()).hexdigest()
        return key

    @property
    def lasting_key(self) -> str:
        """The same, but for the version of the libraries: by this a run knows its model again."""
        return model_key(self.networks, self.scheduler, type(self.family), lasting=True)

    def predict(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """What the network predicts, [B, C, H, W], for `x_t` at timesteps `t` [B], given the `context` of its classes; the
        variance that some networks predict too, in C further channels, is left out."""
        return self.output(*self.process.inputs(x_t, t), context)

    def output(self, x: Tensor, times: Tensor, context: Tensor | None = None) -> Tensor:
        """The same for what the network itself is given: scaled images `x` [B, C, H, W] and `times` [B]."""
        return self.family.predict(self.unet, x, times, context)[:, :x.shape[1]]

    def context(self, labels: Tensor | None, left_out: Tensor | None = None) -> Tensor | None:
        """What `predict` is given of classes [B], None for an unconditional model; UserError for an unknown class. Those
        that are `left_out`, bool [B], become the label of no class."""
        if self.classes is None:
            return None
        self.check_classes(labels)
        assert labels is not None
        shown = labels if left_out is None else torch.where(left_out.to(labels.device), self.classes, labels)
        return self.family.condition(shown.to(self.device))

    def check_classes(self, labels: Tensor | None, count: int | None = None) -> None:
        """UserError where classes [B] are none of a conditional model's, or where `count` names, whose places in a sorted
        list they are, are not as many as its classes."""
        classes = self.classes
        if classes is None:
            return
        if isinstance(self.family, TextFamily) and not classes:
            raise UserError("the model draws what captions say and the data set has none: choose dataset=captions")
        if labels is None:
            raise UserError("the model draws images of given classes and the data set names none: "
                            "give a folder with one sub-folder of images per class")
        if unknown := [end for end in (int(labels.min()), int(labels.max())) if not 0 <= end < classes]:
            raise UserError(f"the data set has a class {unknown[0]}, the model knows 0 to {classes - 1}: give the data set "
                            "it was trained on")
        if count is not None and count != classes:
            raise UserError(f"the data set names {count} classes and the model has {classes}, so which ones these are "
                            f"cannot be known: give all of them, or name the folders by their numbers (0 to {classes - 1})")

    def labels_for(self, indices: range) -> Tensor | None:
        """The class of each image that is drawn, index modulo the number of classes; None for an unconditional model."""
        if self.classes == 0:
            self.check_classes(None)
        return None if self.classes is None else torch.tensor(indices) % self.classes

    def predictor(self, labels: Tensor | None, guidance: float | None, scaled: bool = False) -> Predictor:
        """The prediction for images of `labels` [B], by classifier-free guidance (Ho and Salimans 2022, eq. 6).

        eps_u + guidance (eps_c - eps_u), both in one evaluation of twice the batch; None or 1 is eps_c alone. It is called
        with x_t and t, or where they are `scaled` already with what the network itself is given.
        """
        predict = self.output if scaled else self.predict
        context_c, classes = self.context(labels), self.classes
        if labels is None or classes is None or context_c is None or guidance is None or guidance == 1:
            return lambda x_t, t: predict(x_t, t, context_c)
        context_u = self.family.condition(torch.full_like(labels, classes).to(self.device))
        assert context_u is not None
        context = torch.cat([context_u, context_c])

        def guided(x_t: Tensor, t: Tensor) -> Tensor:
            eps_u, eps_c = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), context).float().chunk(2)
            return eps_u + guidance * (eps_c - eps_u)
        return guided

    def to_latent(self, images: Tensor) -> Tensor:
        """What the noise predictor denoises of `images` [B, C, H, W] in [-1, 1]: latents, or the images themselves."""
        return self.family.encode(images)

    def to_image(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W], about [-1, 1], of clean `latents`."""
        return self.family.decode(latents)
