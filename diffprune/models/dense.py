"""The dense model of a run: shipped, from a folder, fetched, or with random weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from diffprune.config.compose import made
from diffprune.config.model_source import is_url
from diffprune.models.archive import unpack
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import Family, family_for
from diffprune.models.formats.read import fill_model
from diffprune.models.model_folder import load_model, local_folder, save_model
from diffprune.models.network import config_of
from diffprune.runs.cache import Cache
from diffprune.runtime.addresses import without_secrets
from diffprune.runtime.checksums import intact
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import is_file, remove

ARCHIVE = ".zip"        # how the name of an archive of a model folder ends


@dataclass(frozen=True)
class DenseModel:
    """A run's dense model as its configuration describes it; nothing is read before `load`.

    `checkpoint`: `shipped:NAME`, a model folder or a zip archive of one, a hub repository, an address, or None for random
    weights from `seed`.
    `architecture`: {"unet", "scheduler" or a fixed network: its class under `_target_` and its arguments}; for a model of no
    family of this package, "family" has the family's class under `_target_`, and its fixed networks. `origin` says who
    publishes the checkpoint and how large it is, `by_hand` what to do where it cannot be fetched. Downloads go to `cache`.
    """
    name: str
    checkpoint: str | None
    architecture: Mapping[str, Any]
    seed: int
    cache: Cache
    origin: str = ""
    by_hand: str = ""

    def load(self) -> DiffusionModel:
        """The model on the CPU, in evaluation mode; UserError where it cannot be had."""
        return self.random() if self.checkpoint is None else load_model(self.folder(self.checkpoint))

    def random(self) -> DiffusionModel:
        """The architecture with PyTorch's default initialisation, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.blank()

    def blank(self) -> DiffusionModel:
        """The architecture on torch's default device; its noise schedule is always on the CPU."""
        if "_target_" not in self.architecture["unet"]:
            raise UserError(f"model={self.name} has no architecture of its own: "
                            "give model.checkpoint=<folder> or a hub repository")
        unet = self.made("unet").eval()
        family = self.family(unet)
        for network in family.networks.values():
            network.eval().requires_grad_(False)
        with torch.device("cpu"):
            return DiffusionModel(unet, self.made("scheduler"), family)

    def family(self, unet: nn.Module) -> Family:
        """The fixed networks around `unet`, in the family that the configuration names or that the networks' names tell."""
        if "family" in self.architecture:
            return self.made("family")
        kind = family_for(type(unet), self.architecture)
        return kind(**{name: self.made(name) for name in kind.fixed if name in self.architecture})

    def made(self, name: str) -> Any:
        """The object that the configuration describes under `name`."""
        return made(self.architecture[name])

    def folder(self, checkpoint: str) -> Path:
        """The local folder of `checkpoint`, fetched first when it is an address or a hub repository (owner/name), and
        unpacked when it is a zip archive."""
        folder = local_folder(checkpoint)
        if folder.suffix == ARCHIVE and is_file(folder):
            return self.unpacked(folder)
        if folder.exists() or checkpoint.startswith("shipped:"):
            return folder
        from diffprune.models.fetch import fetch_repository
        if is_url(checkpoint):
            zipped = urlsplit(checkpoint).path.endswith(ARCHIVE)
            return self.fetch_archive(checkpoint) if zipped else self.fetch_original(checkpoint)
        return fetch_repository(checkpoint, self.origin)

    def unpacked(self, archive: Path) -> Path:
        """The model folder in a zip `archive`, unpacked once for all runs."""
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self.cache.entry("models", {"archive": digest}, "") as folder:
            if not folder.exists():
                unpack(archive, folder)
            return folder

    def fetch_archive(self, url: str) -> Path:
        """The model folder in the zip archive at `url`."""
        from diffprune.models.fetch import fetch_file
        with self.cache.entry("models", {"url": without_secrets(url)}, ARCHIVE) as archive:
            if not archive.exists():
                fetch_file(url, archive, self.origin, self.by_hand)
        return self.unpacked(archive)

    def fetch_original(self, url: str) -> Path:
        """The model folder made of the original checkpoint file at `url`, converted once for all runs."""
        from diffprune.models.fetch import fetch_file
        with torch.device("meta"):
            model = self.blank()
        shown = without_secrets(url)
        # What decides the folder: the file behind the address, and all that is saved beside its weights.
        with self.cache.entry("models", {"url": shown, **self.architecture}, "") as folder:
            if not folder.exists():
                suffix = ".safetensors" if urlsplit(url).path.endswith(".safetensors") else ".ckpt"
                original = folder.with_name(folder.name + suffix)
                if not intact(original):
                    fetch_file(url, original, self.origin, self.by_hand)
                try:
                    save_model(fill_model(model, original), folder)
                except UserError as error:
                    raise UserError(f"{error}; it came from {shown}: delete it to fetch it again, or give a model folder "
                                    f"that python -m diffprune.convert made of it with model.checkpoint=<folder>") from error
                remove(original)        # its sha256 stays beside the folder
            return folder


def check_fit(model: DiffusionModel, name: str, dataset: str, shape: tuple[int, int, int],
              without_condition: str | None = None) -> None:
    """UserError where the model `name` cannot draw images of the `shape` (C, H, W) of `dataset`, or where the option
    `without_condition` is given, for which it must know what no class or no prompt is."""
    channels = config_of(model.unet)["in_channels"], config_of(model.unet)["out_channels"]
    if channels[1] not in (channels[0], 2 * channels[0]):       # twice as many: a variance too
        raise UserError(f"model={name} takes {channels[0]} channels and gives {channels[1]}: only models that take an image "
                        "or latent alone can be scored, sampled and trained here")
    model.family.check(model.unet, name)
    if model.image_shape != shape:
        raise UserError(f"model={name} draws images of shape {model.image_shape}, dataset={dataset} has "
                        f"{shape}: choose a model of the data set's shape")
    if without_condition and (model.classes is None or not model.family.has_unconditional):
        raise UserError(f"{without_condition} needs a model of classes or prompts that was trained without them too, "
                        f"model={name} is none: leave it out")
