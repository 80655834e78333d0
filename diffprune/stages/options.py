"""What the stages read from a run's configuration: the options of each component, built here and nowhere else."""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from math import ceil
from pathlib import Path
from pkgutil import resolve_name
from tempfile import gettempdir
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffprune.config.compose import made
from diffprune.config.model_source import by_hand, origin
from diffprune.config.naming import masked, science
from diffprune.config.schema import STAGES
from diffprune.data import load_images as load_data_set
from diffprune.data.loading.images import Images, ImageSet
from diffprune.data.loading.record import recall_key
from diffprune.data.loading.split import split
from diffprune.evaluation.features import load_extractor
from diffprune.models.dense import DenseModel, check_fit
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.family import TextFamily
from diffprune.models.model_folder import load_model
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Criterion
from diffprune.pruning.parts import Parts
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS
from diffprune.pruning.timesteps import Policy, Threshold
from diffprune.runs.cache import Cache
from diffprune.runs.data_record import DataRecord, ModelRecord, note_skipped
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.sampling.protocol import Drawing, SamplerOptions
from diffprune.stages.cost import affordable_steps
from diffprune.tracking.tracker import Description
from diffprune.training.block_outputs import kept_outputs
from diffprune.training.losses import TERMS, Term
from diffprune.training.recipe import Recipe

COMPILER_S_OWN = os.path.join(gettempdir(), "torchinductor_")    # where it keeps code unless it is told otherwise
# What each set of images shows.
TITLES = {"final": "final model", "dense": "dense model", "before_healing": "before healing"}


def plain(node: DictConfig) -> dict[str, Any]:
    """The options below `node` as a plain dict, interpolations resolved."""
    options = OmegaConf.to_container(node, resolve=True)
    assert isinstance(options, dict)
    return {str(name): value for name, value in options.items()}


def cache(cfg: DictConfig) -> Cache:
    return Cache(Path(cfg.paths.cache))


def execution(cfg: DictConfig) -> Execution:
    """Where and how the run's networks run; UserError where the machine lacks the device. What torch.compile makes is kept
    in the cache, unless TORCHINDUCTOR_CACHE_DIR names another folder."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR", COMPILER_S_OWN)
    if cfg.compile != "no" and folder.startswith(COMPILER_S_OWN):     # which it sets when it is imported
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath(Path(cfg.paths.cache, "compiled"))
    return Execution.of(cfg.device, cfg.precision, cfg.memory_format, cfg.compile)


def import_family(cfg: DictConfig) -> None:
    """Imports the model family of one's own that the configuration names, if it names one, so that the folders of its models
    can be read; UserError where there is none of that name."""
    if (name := OmegaConf.select(cfg, "model.family._target_")) is not None:
        try:
            get_class(name)
        except (ImportError, ValueError) as error:
            raise UserError(f"model.family._target_={name} cannot be imported ({error}): put its module on "
                            "PYTHONPATH") from error


def image_shape(cfg: DictConfig) -> tuple[int, int, int]:
    """(C, H, W) of the data set's images."""
    return cfg.dataset.channels, cfg.dataset.resolution, cfg.dataset.resolution


def trains(cfg: DictConfig) -> bool:
    """Whether the run fine-tunes."""
    return cfg.schedule.steps > 0


def dense_model(cfg: DictConfig) -> DenseModel:
    networks = {name: network for name, network in plain(cfg.model).items()
                if isinstance(network, dict) and name != "source"}
    published = "" if cfg.model.checkpoint is None else origin(cfg.model)
    return DenseModel(cfg.model.name, cfg.model.checkpoint, networks, cfg.seed, cache(cfg), published, by_hand(cfg.model))


def load_dense(cfg: DictConfig, run: Run | None = None) -> DiffusionModel:
    """The model before pruning, on the CPU, in evaluation mode; UserError where it cannot be had or does not fit, or where
    the `run` was started with another."""
    model = with_captions(cfg, dense_model(cfg).load())
    without_condition = None if cfg.sampler.guidance is None else f"sampler.guidance={cfg.sampler.guidance}"
    if trains(cfg) and cfg.schedule.unconditional:
        without_condition = f"schedule.unconditional={cfg.schedule.unconditional:g}"
    check_fit(model, cfg.model.name, cfg.dataset.name, image_shape(cfg), without_condition)
    if STAGES.index(cfg.until) > STAGES.index("prune"):
        sampler_options(cfg).check(model, cfg.model.name)
    if run is not None:
        ModelRecord(model.lasting_key, masked(cfg).model.checkpoint).keep(run)
    return model


def load_own(cfg: DictConfig, folder: Path) -> DiffusionModel:
    """A model in a `folder` of the run, ready to be given the labels of the data set."""
    return with_captions(cfg, load_model(folder))


def with_captions(cfg: DictConfig, model: DiffusionModel) -> DiffusionModel:
    """The `model`, with the data set's captions as the prompts that its labels stand for, if it draws what prompts say."""
    if isinstance(model.family, TextFamily):
        model.family.prompts = load_images(cfg).captions
    return model


def load_start(cfg: DictConfig, run: Run) -> DiffusionModel:
    """What a round scores and prunes: the dense model, or what the previous round has fine-tuned. On the CPU."""
    return load_dense(cfg, run) if run.previous is None else load_own(cfg, run.previous.finetuned)


def load_images(cfg: DictConfig) -> ImageSet:
    """The training images of the data set; UserError where they cannot be read."""
    images = load_data_set(plain(cfg.dataset))
    if isinstance(images, Images) and (shape := tuple(images.pixels.shape[1:])) != image_shape(cfg):
        raise UserError(f"dataset={cfg.dataset.name} has images of shape {shape}, its options say {image_shape(cfg)}: give "
                        f"dataset.channels={shape[0]} dataset.resolution={shape[1]}")
    recall_key(images, cache(cfg))
    return images


def from_elsewhere(cfg: DictConfig) -> Iterator[tuple[str, object, Callable[[], object]]]:
    """(what it is, the options that decide it, how it is read) of what the run may have to fetch."""
    yield f"data set {cfg.dataset.name}", plain(cfg.dataset), lambda: load_images(cfg)
    if cfg.model.checkpoint is not None:
        yield f"model {cfg.model.name}", plain(cfg.model), lambda: load_dense(cfg)
    if cfg.until == STAGES[-1]:
        features = cfg.evaluate.features, cfg.evaluate.weights
        yield f"feature network {features[0]}", features, lambda: load_extractor(*features)


def parts(cfg: DictConfig, images: ImageSet) -> tuple[ImageSet, ImageSet | None]:
    """The images that the run's model is scored, compensated and trained on, and those on which its loss is measured."""
    return split(images, cfg.dataset.held_out)


def begin_data(cfg: DictConfig, run: Run, images: ImageSet) -> None:
    """Notes at the run's first use of data which images it has; UserError where it was begun with others."""
    DataRecord(images.key, len(images), cfg.dataset.path).keep(run)


def calibration(cfg: DictConfig, run: Run, model: DiffusionModel, option: str) -> tuple[ImageSet, Tensor, Tensor | None]:
    """The images to train on, as many of them as `pruner.<option>` says, [N, C, H, W] in [-1, 1], and their classes [N].

    UserError where it has fewer than any stage will need, or where its classes do not fit the model.
    """
    whole, pruner = load_images(cfg), cfg.pruner
    begin_data(cfg, run, whole)
    model.check_classes(whole.labels, whole.class_count)
    images, _ = parts(cfg, whole)
    for name in (option, *(["compensation_images"] if pruner.compensate != "none" else [])):
        images.check_count(pruner[name], name)
    x_0 = images.calibration(pruner[option], cfg.seed)
    note_skipped(run, images.skipped)
    return images, x_0, images.calibration_labels(pruner[option], cfg.seed)


def timestep_policy(cfg: DictConfig, criterion: Criterion) -> Policy:
    """The policy `pruner.timesteps`, or the paper's at `pruner.threshold`; UserError for values that a policy refuses."""
    if cfg.pruner.timesteps is None:
        return Threshold(cfg.pruner.get("threshold", 0.0), criterion.inclusive)
    return made(cfg.pruner.timesteps, Policy)


def criterion(cfg: DictConfig) -> Criterion:
    return made(cfg.pruner.criterion, Criterion)


def allocation(cfg: DictConfig, ratio: float | None = None) -> Allocation:
    """The pruner's options, at the nominal `ratio` if it is given."""
    pruner = cfg.pruner
    return Allocation(pruner.ratio if ratio is None else ratio, SELECTIONS[pruner.selection](), pruner.heads,
                      pruner.round_to, pruner.scope, pruner.floor,
                      quantity="macs" if pruner.target.params is None else "params", parts=parts_pruned(cfg))


def parts_pruned(cfg: DictConfig) -> Parts:
    """The parts of the network that the run prunes, and their ratios."""
    pruner = plain(cfg.pruner)
    return Parts(None if pruner["only"] is None else tuple(pruner["only"]), tuple(pruner["keep"]), pruner["ratios"] or {})


def pruning_target(cfg: DictConfig) -> tuple[str, float] | None:
    """The quantity ("macs", "params", "latency") and the fraction of it that `pruner.target` keeps, if one is given."""
    return next(((str(quantity), kept) for quantity, kept in cfg.pruner.target.items() if kept is not None), None)


def recipe(cfg: DictConfig) -> Recipe:
    """How the run fine-tunes. UserError for an objective that is none, or that learns from a dense model where there is
    none."""
    options, weights = plain(cfg.schedule), cfg.schedule.objective
    objective = {term_class(name): weight for name, weight in weights.items() if weight}
    if not objective or min(objective.values()) < 0:
        raise UserError(f"schedule.objective={weights} weighs its terms wrongly: give positive weights, and 0 to those that "
                        "are to be left out")
    taught = [name for name, weight in weights.items() if weight and term_class(name).needs_teacher]
    if taught and cfg.model.checkpoint is None:
        raise UserError(f"schedule.objective has {taught[0]}, which learns from the dense model, and model.checkpoint=null "
                        "has random weights: give a trained model, or only schedule.objective={noise: 1}")
    options |= {"objective": objective, "betas": tuple(options["betas"])}
    return Recipe(**{field.name: options[field.name] for field in fields(Recipe)})


def healing(cfg: DictConfig, run: Run) -> Recipe:
    """How a round of the run fine-tunes, with its own number of steps."""
    of_a_round = replace(recipe(cfg), steps=run.round.steps(cfg.schedule.steps))
    return replace(of_a_round, steps=affordable_steps(of_a_round, run)) if cfg.schedule.equal_cost else of_a_round


def term_class(name: str) -> type[Term]:
    """The term of an objective that `name` means in TERMS, or that it is the dotted path of; UserError for any other."""
    try:
        term = TERMS.get(name) or resolve_name(name)
        if not issubclass(term, Term):
            raise TypeError("that class is no Term")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"schedule.objective has {name}, which is neither {', '.join(TERMS)} nor the dotted path of a Term: "
                        f"{error}") from error
    return term


def load_teacher(cfg: DictConfig, run: Run | None = None) -> DiffusionModel | None:
    """The dense model, where the objective learns from it, on the CPU; UserError where there is none, or none that fits."""
    terms = recipe(cfg).objective
    if not any(term.needs_teacher for term in terms):
        return None
    teacher = load_dense(cfg, run)
    if any(term.needs_blocks for term in terms) and not hasattr(teacher.unet, "down_blocks"):
        raise UserError(f"schedule.objective={cfg.schedule.objective} compares a UNet's blocks, and model={cfg.model.name} "
                        "has none: give schedule=distill")
    return teacher


def kept_channels(cfg: DictConfig, run: Run, teacher: DiffusionModel | None) -> list[Tensor] | None:
    """For each block of the `teacher` the output channels that the run's pruned model has; None where no term needs them."""
    if teacher is None or not any(term.needs_blocks for term in recipe(cfg).objective):
        return None
    return kept_outputs(teacher.unet, PruneReport.read(run.prune_report).kept)


def sampler_options(cfg: DictConfig) -> SamplerOptions:
    options = plain(cfg.sampler)
    return SamplerOptions(**{field.name: options[field.name] for field in fields(SamplerOptions)})


def drawing(cfg: DictConfig, how: Execution | None = None) -> Drawing:
    """How each set of the run's images is drawn."""
    batches = ceil(cfg.evaluate.images / cfg.sampler.batch)
    return Drawing(cfg.evaluate.images, sampler_options(cfg), cfg.sampler.batch,
                   (how or execution(cfg)).compiled_for(batches * cfg.sampler.steps))


def description(cfg: DictConfig) -> Description:
    """What a tracker is told of the run."""
    return Description(Path(cfg.paths.runs), plain(masked(cfg)), science(cfg))
