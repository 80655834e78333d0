"""`diffprune.load_pipeline` and `diffprune.save_pipeline`: pipelines from folders, runs and the hub, and to folders."""

import re
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from diffprune.api.held import Held, mistakes_as_value_errors, model_of
from diffprune.models.fetch import fetch_repository
from diffprune.models.model_folder import load_model, local_folder, pipeline_of, save_model
from diffprune.runs.run import Run
from diffprune.runtime.files import is_folder

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load_pipeline(source: str | Path) -> DiffusionPipeline:
    """A ready diffusers pipeline for a model folder, pruned or dense; for a run's folder, whose final model it is; for a
    repository of the hub (`owner/name`), which is fetched; or for `shipped:NAME`, which the package carries.

    Any scheduler of diffusers for the same process may replace its own. Raises UserError where there is none, or it is
    incomplete or damaged.
    """
    return pipeline_of(load_model(model_folder(str(source))))


def model_folder(source: str) -> Path:
    """The model folder that `source` names, as `load_pipeline` takes it."""
    folder = local_folder(source)
    if is_folder(folder):
        run = Run(folder)
        return run.final_model() if run.config.exists() or run.prune_report.exists() else folder
    return fetch_repository(source, "") if HUB_NAME.fullmatch(source) else folder


def save_pipeline(held: Held, folder: str | Path, scheduler: object = None) -> None:
    """Writes a model folder, by rename, from which `diffprune.load_pipeline` makes the same pipeline: of a diffusers
    pipeline as it is, of a network with its noise `scheduler`. Raises ValueError where `folder` holds anything else."""
    with mistakes_as_value_errors():
        pipeline = held if isinstance(held, DiffusionPipeline) else None
        save_model(model_of(held, scheduler), Path(folder).expanduser(), pipeline)
