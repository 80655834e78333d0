"""The images that all others are compared with: the data set, or statistics that somebody else made of it."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffprune.data import load_images
from diffprune.data.loading.record import list_skipped
from diffprune.evaluation.feature_statistics import Portrait, drawn_from
from diffprune.evaluation.features.extractor import Extractor
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run

log = logging.getLogger(__name__)

Protocol = dict[str, Any]


def reference(cfg: DictConfig, extractor: Extractor, run: Run | None = None) -> tuple[Portrait, Protocol]:
    """What `extractor` sees in the data set, or the statistics in `evaluate.reference`, and their place in the protocol.

    The folder of `run` then lists the images that were left out.
    """
    if cfg.evaluate.reference is not None:
        portrait, protocol = of_file(Path(cfg.evaluate.reference), extractor)
    else:
        portrait, protocol = of_data(cfg, extractor, run)
    return portrait, protocol | extractor.about


def of_data(cfg: DictConfig, extractor: Extractor, run: Run | None = None) -> tuple[Portrait, Protocol]:
    """Computed once per (images as they are loaded, extractor, images kept); a later run only reads it.

    The file in the cache is one that pytorch-fid reads too.
    """
    images = load_images(cfg, run)
    key = {"data": images.key, "images": len(images), "features": extractor.name, **extractor.about,
           "subset": cfg.evaluate.subset, "dtype": "float32", **drawn_from(len(images), cfg.evaluate.subset)}
    with Cache(Path(cfg.paths.cache)).entry("statistics", key, ".npz") as path:
        if not path.exists():
            chunks = images.chunks(cfg.evaluate.batch)
            portrait = Portrait.of(extractor, chunks, len(images), cfg.evaluate.subset, cfg.dataset.name)
            replace(portrait, skipped=images.skipped).save(path)
            log.info("statistics of %s are kept in %s", cfg.dataset.name, path)
        portrait = Portrait.read(path)
    if run is not None:
        list_skipped(portrait.skipped, run)
    protocol = {"reference": f"{cfg.dataset.name}, {len(images)} images", "reference_key": path.stem}
    return portrait, protocol | ({"skipped": len(portrait.skipped)} if portrait.skipped else {})


def of_file(path: Path, extractor: Extractor) -> tuple[Portrait, Protocol]:
    """Imported, for instance from pytorch-fid; its key is the file's content. UserError for another extractor's."""
    file = path.expanduser()
    portrait = Portrait.read(file)
    portrait.check(extractor, file)
    return portrait, {"reference": file.name, "reference_key": hashlib.sha256(file.read_bytes()).hexdigest()[:8]}
