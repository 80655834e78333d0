"""What Hydra is told of the configuration, and what it composes."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffprune.config.naming import run_name
from diffprune.config.schema import (
    Config,
    GatedPruner,
    LabelledDataset,
    LatentModel,
    SlurmLauncher,
    WandbLogger,
)
from diffprune.config.validation import check


def register() -> None:
    """Makes the schema known to Hydra; options that only one choice of a group has are types of their own."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="schema", name="gated_pruner", node=GatedPruner)
    store.store(group="schema", name="latent_model", node=LatentModel)
    store.store(group="schema", name="labelled_dataset", node=LabelledDataset)
    store.store(group="schema", name="wandb_logger", node=WandbLogger)
    store.store(group="schema", name="slurm_launcher", node=SlurmLauncher)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: checked_name(_root_), replace=True)


def composed(overrides: list[str]) -> DictConfig:
    """What the command line composes from `overrides`; raises Hydra's errors for one that is none."""
    register()
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides)


def checked_name(cfg: DictConfig) -> str:
    """The name of a run's folder; an impossible run has none, so that nothing is made for it.

    In a sweep the job itself refuses, when its turn comes, and the jobs after it still get theirs.
    """
    if OmegaConf.select(cfg, "hydra.mode") == RunMode.RUN:
        check(cfg)
    return run_name(cfg)
