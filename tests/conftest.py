"""What several test files share: the reference folder, composed configurations, a tiny UNet."""

import copy
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import diffprune.config.compose
from diffprune.config.compose import register
from tests import processes

ROOT = Path(__file__).parent.parent
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["WANDB_SILENT"] = "true"
subprocess.Popen = processes.Popen     # commands start without their imports


@cache
def composition(folder: Path, name: str, overrides: tuple[str, ...], with_hydra: bool) -> DictConfig:
    """What Hydra composes from the configurations in `folder`, which takes a tenth of a second: once a process."""
    return compose(name, list(overrides), return_hydra_config=with_hydra)


def composed_once(config_name: str, overrides: Sequence[str] = (), return_hydra_config: bool = False) -> DictConfig:
    """As `hydra.compose`, from the configurations of the repository, which no test changes."""
    if any("searchpath" in text for text in overrides):
        return compose(config_name, list(overrides), return_hydra_config=return_hydra_config)
    folder = diffprune.config.compose.CONF
    return copy.deepcopy(composition(folder, config_name, tuple(overrides), return_hydra_config))


diffprune.config.compose.compose = composed_once


@pytest.hookimpl(tryfirst=True)       # before the plugin reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, one file stays in one of them; so do all that use the cluster. What takes
    longest comes first, so that they end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if item.get_closest_marker("slurm") else item.path.stem))
    items.sort(key=lambda item: (item.get_closest_marker("slurm") is None, item.path not in slow))


def unavailable(reason: str) -> NoReturn:
    """Skips the test for something that a package manager has; fails it where DIFFPRUNE_COMPLETE says that one is here."""
    (pytest.fail if os.environ.get("DIFFPRUNE_COMPLETE") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and published numbers (DIFFPRUNE_SHARED, default ../shared)."""
    folder = Path(os.environ.get("DIFFPRUNE_SHARED", ROOT.parent / "shared"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not folder.is_dir():
        pytest.skip(f"the folder of real data {folder} is absent: set DIFFPRUNE_SHARED")
    return folder


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Outputs of the method's original code, with the models that they were made by."""
    return ROOT / "tests" / "reference"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """Composes the configuration with overrides, as the command line does; runs and cache lie in tmp_path."""
    def composed(*overrides: str) -> DictConfig:
        register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = composed_once("config", ["logger=none", *overrides])
        for name in ("runs", "cache"):
            if not any(text.startswith(f"paths.{name}=") for text in overrides):
                cfg.paths[name] = f"{tmp_path}/{name}"
        return cfg
    return composed


def tuned(*overrides: str) -> DictConfig:
    """The default configuration with some values changed, for tests that need no other group option."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.merge(composed_once("config", ["logger=none"]), OmegaConf.from_dotlist(list(overrides)))


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file in pytorch-fid's format: names and shapes are real, values are random, activations of unit size."""
    import pytorch_fid.inception as source
    from torchvision.models.inception import Inception3

    from diffprune.evaluation.features.inception import replaced
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with replaced(source, "load_state_dict_from_url", lambda *_, **__: {}), \
                replaced(Inception3, "load_state_dict", lambda *_: None):
            network = source.fid_inception_v3()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Has something happen when the data of a step is asked for, once."""
    from diffprune.data.loading.images import ImageSet

    def arranged(step: int, happens: Callable[[], None]) -> None:
        usual = ImageSet.batches

        def batches(self: ImageSet, start: int, *rest) -> Iterator:
            for number, batch in enumerate(usual(self, start, *rest), start):
                if number == step:
                    monkeypatch.setattr(ImageSet, "batches", usual)
                    happens()
                yield batch
        monkeypatch.setattr(ImageSet, "batches", batches)
    return arranged


def tiny_unet(widths: tuple[int, ...] = (8, 16), groups: int = 4, layers: int = 1, attention: bool = True,
              channels: int = 1, size: int = 8, seed: int = 0) -> torch.nn.Module:
    """A UNet2DModel of the paper's block types, small enough for a test."""
    from diffusers import UNet2DModel
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    plain = len(widths) - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=layers,
            block_out_channels=widths, down_block_types=(*["DownBlock2D"] * plain, down),
            up_block_types=(up, *["UpBlock2D"] * plain), norm_num_groups=groups, norm_eps=1e-6, downsample_padding=0,
            attention_head_dim=None).eval()
