"""The images that all others are compared with: the data set, or statistics that somebody else made of it."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffprune.data import load_images
from diffprune.features.extractor import Extractor
from diffprune.portrait import Portrait
from diffprune.run import Cache

log = logging.getLogger(__name__)

Protocol = dict[str, Any]


def reference(cfg: DictConfig, extractor: Extractor) -> tuple[Portrait, Protocol]:
    """What `extractor` sees in the data set, or the statistics in `evaluate.reference`, and their place in the protocol."""
    portrait, protocol = of_data(cfg, extractor) if cfg.evaluate.reference is None else of_file(Path(cfg.evaluate.reference))
    return portrait, protocol | extractor.about


def of_data(cfg: DictConfig, extractor: Extractor) -> tuple[Portrait, Protocol]:
    """Computed once per (images as they are loaded, extractor, images kept); a later run only reads it.

    The file in the cache is one that pytorch-fid reads too.
    """
    images = load_images(cfg)
    key = {"data": images.key, "images": len(images), "features": extractor.name, **extractor.about,
           "subset": cfg.evaluate.subset, "dtype": "float32"}
    with Cache(Path(cfg.paths.cache)).entry("statistics", key, ".npz") as path:
        if not path.exists():
            chunks = images.chunks(cfg.evaluate.batch)
            Portrait.of(extractor, chunks, len(images), cfg.evaluate.subset, cfg.dataset.name).save(path)
            log.info("statistics of %s are kept in %s", cfg.dataset.name, path)
        return Portrait.read(path), {"reference": f"{cfg.dataset.name}, {len(images)} images", "reference_key": path.stem}


def of_file(path: Path) -> tuple[Portrait, Protocol]:
    """Imported, for instance from pytorch-fid; its key is the file's content."""
    file = path.expanduser()
    portrait = Portrait.read(file)
    return portrait, {"reference": file.name, "reference_key": hashlib.sha256(file.read_bytes()).hexdigest()[:8]}
