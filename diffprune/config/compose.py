"""What Hydra is told about the configuration, how a run's options are composed, and what their `_target_`s make."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffprune.config import schema
from diffprune.config.help import help_text
from diffprune.config.naming import mask_address, run_folder
from diffprune.config.sweep_words import fixed_keys, varied
from diffprune.config.validation import check
from diffprune.runtime import checksums
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import shipped_folder

CONF = shipped_folder("conf")
# Options that only one choice of a group has are types of their own: that choice names its type in its defaults.
OF_ONE_CHOICE = {"gated_pruner": schema.GatedPruner, "latent_model": schema.LatentModel,
                 "family_model": schema.FamilyModel, "labelled_dataset": schema.LabelledDataset,
                 "captioned_dataset": schema.CaptionedDataset, "wandb_logger": schema.WandbLogger,
                 "slurm_launcher": schema.SlurmLauncher}


def register() -> None:
    """Makes the schema and the resolvers `run_name` and `help_text` known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema.Config)
    for name, node in OF_ONE_CHOICE.items():
        store.store(group="schema", name=name, node=node)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: checked_name(_root_), replace=True)
    OmegaConf.register_new_resolver("help_text", lambda *, _root_: help_text(_root_, CONF), replace=True)


class WithoutSecrets(Callback):
    """Keeps the secrets of an address in a file of options out of the multirun.yaml that Hydra writes for a sweep. The jobs
    are composed from the files again."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        mask_address(config)


class VariedAlone(Callback):
    """Tells the jobs of a sweep, wherever they run, which of their overrides all of them have: in Hydra's own option for
    what does not belong into a job's name."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        keys = ",".join(f"'{key}'" for key in fixed_keys(config.hydra.overrides.task))
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")


def composed(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The configuration that the command line composes from `overrides`, for `with_hydra` including Hydra's own node. Raises
    UserError or Hydra's errors for a mistake in `overrides`."""
    check_overrides(overrides)
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses what Hydra's grammar reads and Hydra then fails on: a value without an option, a choice that is no name."""
    for override in OverridesParser.create().parse_overrides([text for text in overrides if "=" in text]):
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if not key:
            raise UserError(f"{override.input_line} names no option: give <option>=<value>")
        values = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
        if (CONF / key).is_dir() and not all(isinstance(one, str | QuotedString) for one in values):
            choices = ", ".join(sorted(file.stem for file in (CONF / key).glob("*.yaml") if file.stem != "default"))
            raise UserError(f"{override.input_line} is no choice of {key}: leave it out, or choose one of {choices}")


def read_run(config: Path) -> DictConfig:
    """The configuration of a run, from the file that its folder keeps; it is resolved already. What an older version called
    otherwise, or did not have, is as this one has it."""
    checksums.check(config)
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    if cfg.get("precision") == "no":
        cfg.precision = "fp32"
    return cast(DictConfig, OmegaConf.merge(
        {"compile": "no", "sampler": {"scheduler": None}, "schedule": {"unconditional": 0.0}}, cfg))


def read_foreign_run(config: Path, trusted: Sequence[Path] = ()) -> DictConfig:
    """The configuration of a run folder that may come from somebody else. Raises UserError where it names anything under
    `_target_` that neither this package's configurations name nor those in the folders `trusted`, and where an
    interpolation would read something of this machine."""
    cfg = read_run(config)
    content = OmegaConf.to_yaml(cfg)
    files = [file for folder in (CONF, *trusted) for file in folder.rglob("*.yaml")]
    named = {name for file in files for name in re.findall(r"_target_: *([\w.]+)", file.read_text())}
    if foreign := set(re.findall(r"_target_\W*: *(.*)", content)) - named:
        raise UserError(f"{config} names {', '.join(sorted(foreign))} under _target_, which no configuration here names: it "
                        "is not called; give the folder of configurations that names it with --config-dir")
    if "${" in content:
        raise UserError(f"{config} holds ${{…}}, which a run's own configuration never does: somebody changed the file")
    return cfg


def made(options: Any, kind: type = object) -> Any:
    """The object of a `kind` that the class or function under `_target_` gives for the other `options`.

    Raises UserError where it does not exist, does not take the options or gives something else; errors of other kinds pass.
    """
    try:
        result = instantiate(options, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if not isinstance(cause, InstantiationException | ImportError | TypeError | ValueError | NotImplementedError):
            raise cause from None
        raise UserError(f"_target_={options['_target_']} cannot be used: {' '.join(str(cause).split())}") from error
    if not isinstance(result, kind):
        raise UserError(f"_target_={options['_target_']} cannot be used: it gives no {kind.__name__}")
    return result


def checked_name(cfg: DictConfig) -> str:
    """The name of a run's folder; an impossible run is refused here already, so that no folder is made for it. In a sweep,
    each job is refused when its turn comes, so that the jobs after it still run."""
    if OmegaConf.select(cfg, "hydra.mode") == RunMode.RUN:
        if cfg.launcher.name != "local":
            raise UserError(f"launcher={cfg.launcher.name} submits the jobs of a multirun: add -m to the command")
        check(cfg, cfg.hydra.overrides.task)
    in_sweep = OmegaConf.select(cfg, "hydra.mode") == RunMode.MULTIRUN
    return run_folder(cfg, varied(cfg.hydra) if in_sweep else ()).name
