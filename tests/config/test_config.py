"""Every option and experiment composes; what cannot be is refused in one sentence."""

import dataclasses
import importlib
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from diffprune.config import schema
from diffprune.config.compose import check_overrides, composed, made, read_foreign_run
from diffprune.config.naming import run_name, science, use_decimals
from diffprune.config.validation import check
from diffprune.runtime.command_line import sentence
from diffprune.runtime.errors import UserError
from tests.conftest import ROOT, tuned

OPTIONS = sorted((f.parent.name, f.stem) for f in (ROOT / "conf").glob("*/*.yaml")
                 if f.parent.name != "experiment" and f.stem != "default")
EXPERIMENTS = sorted(f.stem for f in (ROOT / "conf" / "experiment").glob("*.yaml"))
LARGE = ["celeba", "lsun_church", "lsun_bedroom", "imagenet"]
NEEDS = {("dataset", "image_folder"): ["dataset.path=.", "dataset.resolution=32", "model.checkpoint=."],
         **{("evaluate", name): ["dataset=cifar10"] for name in ["captions", "cifar10", "image_folder", *LARGE]},
         **{("dataset", name): ["dataset.path=."] for name in LARGE},
         **{("experiment", f"{name}_diff_pruning"): ["dataset.path=."] for name in LARGE},
         ("dataset", "captions"): ["dataset.path=.", "model.checkpoint=."],
         **{("model", name): ["model.checkpoint=."] for name in ("diffusers", "ddpm_cifar10_small")},
         ("model", "ddpm_celeba"): ["model.checkpoint=null"]}
NEEDS["dataset", "celeba"] = NEEDS["experiment", "celeba_diff_pruning"] = ["dataset.path=.", "model.checkpoint=null"]
GROUPS = [group for group in vars(schema).values() if dataclasses.is_dataclass(group)]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(config, group: str, option: str) -> None:
    cfg = config(*NEEDS.get((group, option), []), f"{group}={option}")
    check(cfg)
    assert run_name(cfg)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_says_what_it_is(config, name: str) -> None:
    check(config(f"experiment={name}", *NEEDS.get(("experiment", name), [])))
    head = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert f"# Command: python -m diffprune experiment={name}" in head
    assert "Cost:" in head
    assert "Published:" in head


def test_an_experiment_equals_its_written_out_command(config) -> None:
    written = config("dataset=cifar10", "model=ddpm_cifar10", "pruner=diff_pruning", "pruner.threshold=.05",
                     "pruner.ratio=.3", "schedule=finetune_100k")
    assert run_name(config("experiment=cifar10_diff_pruning")) == run_name(written)


@pytest.mark.parametrize("override", [
    "logger=wandb", "launcher=slurm", "device=cpu", "until=score", "paths.runs=elsewhere", "dataset.workers=3",
    "sampler.batch=7", "sampler.processes=7", "evaluate.batch=7", "schedule.save_every=7", "schedule.preview_every=7",
    "dataset.path=/x", "dataset.memory_gb=.5"])
def test_how_a_run_is_computed_is_outside_its_name(config, override: str) -> None:
    assert run_name(config(override)) == run_name(config())


@pytest.mark.slow
def test_another_folder_of_images_is_another_experiment(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "kittens").symlink_to(tmp_path / "cats")

    def name(path: str, *overrides: str) -> str:
        return run_name(config("dataset=image_folder", "dataset.resolution=32", "model=ddpm_cifar10",
                               f"dataset.path='{path}'", *overrides))

    assert name("cats") != name("dogs")
    assert name("cats") == name(f"{tmp_path}/cats/") == name("~/cats") == name("kittens")
    assert name("cats", "dataset.name=pets") == name("/elsewhere", "dataset.name=pets") != name("cats")


def test_what_is_said_of_a_source_is_outside_the_name(config) -> None:
    model = ("model=ddpm_cifar10", "dataset=cifar10")
    assert run_name(config(*model, "model.source.megabytes=7", "model.source.licence=other")) == run_name(config(*model))


@pytest.mark.parametrize("override", [
    "seed=1", "pruner.ratio=.4", "pruner.threshold=.1", "pruner=taylor", "schedule.steps=7", "sampler.steps=7",
    "evaluate.images=7", "precision=bf16", "model.checkpoint=null", "sampler.seed=1"])
def test_what_changes_the_science_changes_the_name(config, override: str) -> None:
    assert run_name(config(override)) != run_name(config())


def test_every_option_that_changes_the_science_is_in_the_hash_and_no_other(config) -> None:
    options = science(config("dataset=cifar10", "model=ddpm_cifar10"))
    assert (options["sampler"]["guidance"], options["schedule"]["rounds"]) == (None, 1)
    assert not {"paths", "logger", "launcher", "device", "until"} & set(options)
    assert "source" not in options["model"]     # who publishes it, how large it is


def test_a_checkpoint_behind_a_page_ends_with_what_to_do(config) -> None:
    with pytest.raises(UserError) as error:
        check(config("dataset=celeba", "dataset.path=."))
    sentence = str(error.value)
    assert "https://drive.google.com/file/d/1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR/view" in sentence
    assert "published by github.com/ermongroup/ddim, about 315 MB, licence MIT" in sentence
    assert "python -m diffprune.convert <file> <folder> --resolution 64 --weights ema, and give model.checkpoint" in sentence
    assert "\n" not in sentence


def test_a_name_is_readable_and_ends_in_a_hash(config) -> None:
    *words, digest = run_name(config("pruner.threshold=.02", "seed=3")).split("-")
    assert words == ["ddpm_digits", "diff_pruning", "T0.02", "r0.3", "finetune_digits", "s3"]
    assert len(digest) == 8


def test_only_diff_pruning_has_a_threshold(config) -> None:
    assert "threshold" in science(config())["pruner"]
    with pytest.raises(ConfigCompositionException):
        config("pruner=magnitude", "pruner.threshold=.1")


@pytest.mark.parametrize("override", ["pruner.rato=.3", "sed=1", "schedule.stepz=3", "model.unet=3"])
def test_a_typo_stops_at_composition(config, override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        config(override)


@pytest.mark.parametrize("name", ["new", "pruner.new", "evaluate.new"])
def test_an_added_option_is_no_option(config, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is no option"):
        check(config(f"+{name}=1"))


def test_a_typo_in_an_experiment_file_stops_at_composition(tmp_path: Path, config) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "typo.yaml").write_text("# @package _global_\npruner: {rato: 0.5}\n")
    config()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"), \
            pytest.raises(ConfigCompositionException) as error:
        compose("config", overrides=["experiment=typo"])
    assert "rato" in f"{error.value} {error.value.__cause__}"


def test_a_choice_that_is_none_names_those_that_are(config) -> None:
    with pytest.raises(MissingConfigException) as error:
        config("schedule=no_such")
    choices = sentence(error.value).partition("choose one of ")[2].split(", ")
    files = {path.stem for path in (ROOT / "conf" / "schedule").glob("*.yaml")}
    assert set(choices) == files - {"default"}


@pytest.mark.parametrize(("override", "words"), [
    ("pruner.ratio=1.0", "pruner.ratio=1.0"), ("pruner.ratio=-.1", "pruner.ratio=-0.1"),
    ("pruner.threshold=-1", "pruner.threshold=-1"), ("device=gpu", "device=gpu"), ("device=cuda:x", "device=cuda:x"),
    ("until=draw", "until=draw"), ("precision=int8", "precision=int8"), ("evaluate.images=1", "evaluate.images=1"),
    ("sampler.steps=0", "sampler.steps=0"), ("sampler.steps=1001", "sampler.steps=1001"), ("seed=-1", "seed=-1"),
    ("schedule.ema=1.0", "schedule.ema=1.0"), ("schedule.batch=0", "schedule.batch=0"),
    ("sampler.spacing=cubic", "sampler.spacing=cubic"), ("evaluate.features=clip", "digits-cnn, cifar-cnn, inception"),
    ("evaluate.ssim_window=11", "8-pixel images"), ("evaluate.ssim_window=4", "odd number"),
    ("dataset.path=/no/where", "/no/where does not exist"), ("evaluate.weights=/no/file", "/no/file does not exist"),
    ("model.checkpoint=/no/model", "/no/model does not exist"), ("model.checkpoint=./no", "./no does not exist"),
    ("sampler.guidance=-1", "sampler.guidance=-1"), ("sampler.processes=0", "sampler.processes=0"),
    ("dataset.on_error=ignore", "stop, skip"), ("dataset.memory_gb=-1", "dataset.memory_gb=-1"),
    ("dataset.channels=4", "choose one of 1, 3"), ("pruner.heads=half", "equal, whole"),
    ("pruner.round_to=0", "pruner.round_to=0"), ("schedule.betas=[.9,1.0]", "choose values in [0, 1)"),
    ("schedule.betas=[.9]", "give 2 numbers"), ("schedule.betas=[.9,.99,.9]", "give 2 numbers"),
    ("schedule.eps=-1", "schedule.eps=-1"), ("schedule.weight_decay=-1", "schedule.weight_decay=-1"),
    ("schedule.accumulate=999", "schedule.accumulate=999"),
    ("schedule.name=../../x", "schedule.name='../../x'"), ("dataset.name=../evil", "without slashes"),
    ("model.name=..", "does not begin with a dot"), ("pruner.name=''", "pruner.name=''"),
    ("schedule.name='a\\b'", "without slashes"), (f"schedule.name={'x' * 300}", "bytes long"),
    (f"dataset.name={'x' * 300}", "bytes long"), ("paths.runs=/dev/null", "/dev/null is none"),
    ("paths.cache=/etc/passwd/x", "/etc/passwd is none"), ("evaluate.weights=/etc", "/etc is a folder"),
    ("evaluate.reference=/etc", "/etc is a folder"), ("model.checkpoint=/etc/passwd", "/etc/passwd is a file")])
def test_a_value_outside_its_range_is_named(config, override: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        check(config(override))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("group", "option", "owner", "name"), [
    (schema.Sampler, "spacing", "diffusion.process", "SPACINGS"),
    (schema.Schedule, "rate", "training.recipe", "RATES"), (schema.Pruner, "scope", "pruning.scope", "SCOPES"),
    (schema.Pruner, "selection", "pruning.selection", "SELECTIONS"), (schema.Pruner, "heads", "pruning.allocation", "HEADS"),
    (schema.Evaluate, "features", "evaluation.features", "EXTRACTORS")])
def test_the_choices_are_those_that_exist(group: type, option: str, owner: str, name: str) -> None:
    """They are written twice, because the modules that implement them import torch and composing does not."""
    (field,) = (field for field in dataclasses.fields(group) if field.name == option)
    assert field.metadata["choices"] == tuple(getattr(importlib.import_module(f"diffprune.{owner}"), name))


@pytest.mark.parametrize("override", [
    "pruner.ratio=.nan", "schedule.lr=.inf", "schedule.eps=.nan", "schedule.betas=[.9,.nan]", "pruner.thresholds=[.nan]",
    "sampler.guidance=.inf", "model.scheduler.beta_end=.nan", "+pruner.criterion.power=-.inf", "dataset.memory_gb=.inf"])
def test_no_number_is_nan_or_infinite(config, override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0].lstrip('+')}=.* is outside its range"):
        check(config(override.replace(".nan", "nan").replace(".inf", "inf")))


def test_every_option_of_the_schema_says_what_it_takes() -> None:
    for group in GROUPS:
        for field in dataclasses.fields(group):
            assert {"low", "below", "choices", "names_the_run"} <= set(field.metadata), (group, field.name)


def test_what_must_be_chosen_is_named(config) -> None:
    with pytest.raises(UserError, match=r"dataset\.path, dataset\.resolution, model\.checkpoint"):
        check(config("dataset=image_folder"))
    with pytest.raises(UserError, match=r"nothing chosen for pruner\.criterion, pruner\.name"):
        check(config("pruner=default"))


@pytest.mark.parametrize(("overrides", "model"), [
    ((), "ddpm_digits"), (("dataset=celeba",), "ddpm_celeba"), (("dataset=imagenet",), "ldm_imagenet"),
    (("dataset=image_folder",), "diffusers"), (("dataset=imagenet", "model=diffusers"), "diffusers"),
    (("experiment=imagenet_diff_pruning", "model=ddpm_cifar10"), "ddpm_cifar10")])
def test_a_data_set_comes_with_its_model_unless_another_is_chosen(config, overrides: tuple[str, ...], model: str) -> None:
    assert config(*overrides).model.name == model


def test_a_choice_holds_only_what_differs_from_its_groups_default() -> None:
    for default in (ROOT / "conf").glob("*/default.yaml"):
        shared = yaml.safe_load(default.read_text())
        for file in default.parent.glob("*.yaml"):
            own = yaml.safe_load(file.read_text())
            if file != default and "default" in own.get("defaults", ()):
                assert not {key for key in own if shared.get(key, ...) == own[key]}, file


def test_the_schema_holds_no_values() -> None:
    """Every default is written once, in YAML."""
    for group in GROUPS:
        for field in dataclasses.fields(group):
            assert field.default == MISSING, (group, field.name)


@pytest.mark.parametrize(("words", "reason"), [
    (["model.scheduler.beta_end=.5"], "model.checkpoint=shipped:ddpm_digits brings its own"),
    (["model.unet.block_out_channels=[64,128]"], "brings its own"), (["+model.unet.bogus=1"], "brings its own"),
    (["~model.unet.norm_eps"], "brings its own"),
    (["model.scheduler.beta_end=.5", "model.checkpoint=/"], "/ brings its own"),
    (["pruner.threshold=.1", "pruner/timesteps=window"], "pruner.timesteps says"),
    (["pruner.ratio=.1", "pruner.target.macs=.5"], "pruner.target finds the ratio"),
    (["pruner.floor=.2"], "pruner.scope=local has no floor"), (["schedule.ema=.9", "schedule.ema_power=7"], "replaces it")])
def test_an_option_that_another_makes_void_is_refused(config, words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=f"has no effect: .*{reason}"):
        check(config(*words), words)


@pytest.mark.parametrize("words", [
    ["model.scheduler.beta_end=.5", "model.checkpoint=null"], ["pruner.floor=.2", "pruner.scope=global"],
    ["model.scheduler.beta_end=.5", "model.checkpoint=https://a.b/c.ckpt"], ["model.checkpoint=/"], ["schedule.ema_power=7"],
    ["experiment=smoke", "pruner.ratio=.4"], ["pruner.threshold=.1"], ["pruner.target.macs=.5"], ["schedule.ema=.9"]])
def test_an_option_that_is_obeyed_is_not(config, words: list[str]) -> None:
    check(config(*words), words)


@pytest.mark.parametrize(("word", "sentence"), [
    ("=5", "=5 names no option"), ("experiment=null", "experiment=null is no choice of experiment: .*smoke"),
    ("sampler=[1,2]", "is no choice of sampler"), ("pruner/timesteps=null", "choose one of largest, weights, window"),
    ("experiment=null,smoke", "is no choice of experiment"), ("schedule=5", "is no choice of schedule")])
def test_what_hydra_would_fail_on_is_one_sentence(word: str, sentence: str) -> None:
    for check_words in (check_overrides, composed):
        with pytest.raises(UserError, match=sentence):
            check_words([word])


def test_what_hydra_takes_passes() -> None:
    check_overrides(["pruner=random,taylor", "experiment=[smoke]", "seed=1,2", "+a.b=[1,2]", "~model.unet",
                     "pruner='random'", "pruner.ratio"])


@pytest.mark.parametrize("path", ["epoch=9-step=100", "archive (1)", "été", "写真", "a,b", "C#", "a&b", "a b[1]"])
def test_a_path_with_signs_of_hydras_grammar_is_told_how_to_be_quoted(config, path: str) -> None:
    with pytest.raises(HydraException) as error:
        config(f"dataset.path={path}")
    told = sentence(error.value)
    assert f"""'dataset.path="{path}"'""" in told
    assert "\n" not in told
    assert config(f'dataset.path="{path}"').dataset.path == path


def test_a_slurm_launcher_without_a_multirun_is_refused() -> None:
    """Its jobs would run here."""
    cfg = composed(["launcher=slurm"], with_hydra=True)
    OmegaConf.update(cfg, "hydra.mode", "RUN")
    with pytest.raises(InterpolationResolutionError, match="submits the jobs of a multirun: add -m"):
        OmegaConf.select(cfg, "hydra.run.dir")


def written(folder: Path, **changes: Any) -> Path:
    """A run's configuration in `folder`, with options changed."""
    cfg = tuned()
    OmegaConf.resolve(cfg)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    return folder / "config.yaml"


@pytest.mark.parametrize(("key", "target"), [
    ("model__unet___target_", "torch.hub.load"), ("model__unet__nested", {"_target_": "numpy.load"}),
    ("logger___target_", "diffprune.runtime.files.remove"), ("evaluate__metrics__x", [{"y": {"_target_": "os.system"}}])])
def test_a_run_folder_names_nothing_that_the_configurations_do_not(tmp_path: Path, key: str, target: Any) -> None:
    assert read_foreign_run(written(tmp_path)).seed == 0
    file = written(tmp_path, **{key: target})
    target = re.findall(r"[\w.]+\.\w+", str(target))[0]
    with pytest.raises(UserError, match=f"names {target} under _target_.*--config-dir"):
        read_foreign_run(file)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text(f"_target_: {target}\n")
    assert read_foreign_run(file, [tmp_path / "own"])


def test_a_run_folder_of_an_older_version_is_read_as_one_of_this(tmp_path: Path) -> None:
    cfg, file = read_foreign_run(written(tmp_path)), tmp_path / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("precision: fp32", "precision: 'no'").replace("compile: 'no'\n", ""))
    older = read_foreign_run(file)
    assert file.read_text() != text
    assert (older.precision, older.compile) == ("fp32", "no")
    assert run_name(older) == run_name(cfg)


def test_a_run_folder_reads_nothing_of_this_machine(tmp_path: Path) -> None:
    file = written(tmp_path, model__checkpoint="https://a.b/${oc.env:HOME}")
    with pytest.raises(UserError, match="somebody changed the file"):
        read_foreign_run(file)


def fails(**_: object) -> None:
    raise UserError("a sentence of its own")


def test_a_number_of_a_range_is_the_decimal_that_was_meant(config) -> None:
    """0.1 + 0.2, as `pruner.ratio=range(.1,.5,.1)` gives it, prunes as .3 does, in one run folder."""
    words = ["pruner.ratio=0.30000000000000004", "schedule.betas=[0.9,0.9990000000000001]", "schedule.lr=2e-4"]
    sums, meant = config(*words), config("pruner.ratio=.3")
    assert run_name(sums) == run_name(meant)
    use_decimals(sums)
    assert sums == meant
    assert config("pruner.ratio=.3000001").pruner.ratio != sums.pruner.ratio


def test_a_class_that_refuses_its_options_is_one_sentence() -> None:
    for target, message in (("tests.config.test_config.fails", "^a sentence of its own$"),
                            ("tests.config.test_config.Nothing", "_target_=tests.config.test_config.Nothing cannot be used"),
                            ("pathlib.PurePath", "_target_=pathlib.PurePath cannot be used: .*unexpected keyword")):
        with pytest.raises(UserError, match=message):
            made({"_target_": target, "option": 1})


@pytest.mark.parametrize(("words", "said"), [
    (["schedule=none", "schedule.lr=1e-3"], "schedule.lr=1e-3 has no effect: schedule.steps=0 fine-tunes nothing"),
    (["schedule=none", "schedule.objective={noise: 0, output: 1}"], "has no effect: schedule.steps=0 fine-tunes nothing"),
    (["pruner=magnitude", "pruner.calibration_batch=8"], "batch=8 has no effect: pruner=magnitude takes no gradients"),
    (["pruner=random", "pruner.timesteps_per_pass=2"], "per_pass=2 has no effect: pruner=random takes no gradients"),
    (["schedule=none", "schedule.name=other"], ""), (["schedule.steps=5", "schedule.lr=1e-3"], "")])
def test_options_of_a_stage_that_a_run_has_not_are_refused_and_in_a_sweep_named(config, caplog: pytest.LogCaptureFixture,
                                                                               words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) if said else nullcontext():
        check(config(*words), words)
    check(config(*words), words, in_sweep=True)
    assert said in caplog.text
    assert bool(said) == ("no effect" in caplog.text)
