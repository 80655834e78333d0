"""What Hydra is told about the configuration, and the composition of a run's options from overrides."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffprune.config import schema
from diffprune.config.naming import run_name
from diffprune.config.validation import check
from diffprune.runtime import checksums

CONF = Path(__file__).parents[2] / "conf"
# Options that only one choice of a group has are types of their own: that choice names its type in its defaults.
OF_ONE_CHOICE = {"gated_pruner": schema.GatedPruner, "latent_model": schema.LatentModel,
                 "family_model": schema.FamilyModel, "labelled_dataset": schema.LabelledDataset,
                 "wandb_logger": schema.WandbLogger, "slurm_launcher": schema.SlurmLauncher}


def register() -> None:
    """Makes the schema and the resolver `run_name` known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema.Config)
    for name, node in OF_ONE_CHOICE.items():
        store.store(group="schema", name=name, node=node)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: checked_name(_root_), replace=True)


def composed(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The configuration that the command line composes from `overrides`, for `with_hydra` including Hydra's own node. Raises
    Hydra's errors for a mistake in `overrides`."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


def read_run(config: Path) -> DictConfig:
    """The configuration of a run, from the file that its folder keeps; it is resolved already."""
    checksums.check(config)
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    return cfg


def checked_name(cfg: DictConfig) -> str:
    """The name of a run's folder; an impossible run is refused here already, so that no folder is made for it. In a sweep,
    each job is refused when its turn comes, so that the jobs after it still run."""
    if OmegaConf.select(cfg, "hydra.mode") == RunMode.RUN:
        check(cfg)
    return run_name(cfg)
