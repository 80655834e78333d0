"""The images that all others are compared with: a data set, or statistics that somebody else computed."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffprune.config.naming import fingerprint
from diffprune.data.loading.images import ImageSet
from diffprune.evaluation.feature_statistics import FeatureStatistics, subset_rule
from diffprune.evaluation.features.extractor import Extractor
from diffprune.models.identity import computation
from diffprune.runs.cache import Cache

log = logging.getLogger(__name__)

Protocol = dict[str, Any]       # what of a number's protocol the reference decides


def data_statistics(images: ImageSet, name: str, extractor: Extractor, cache: Cache, subset: int,
                    batch: int) -> tuple[FeatureStatistics, Protocol]:
    """The statistics of the data set `name`, with the features of `subset` of its images; computed once into the cache.

    The file in the cache is one that pytorch-fid reads too. `batch` images are looked at together.
    """
    rule = subset_rule(len(images), subset)
    # What the numbers are of: the images as they are loaded, the feature network, which features are kept.
    content = {"data": images.key, "images": len(images), "features": extractor.name, **extractor.protocol, "subset": subset,
               "dtype": "float32", **rule}
    # What decides their last bits besides: how many images at once, and what the network is evaluated with.
    with cache.entry("statistics", content | {"batch": batch} | computation(extractor.device), ".npz") as path:
        if not path.exists():
            statistics = FeatureStatistics.of(extractor, images.chunks(batch), len(images), subset, name)
            replace(statistics, skipped=images.skipped).save(path)
            log.info("statistics of %s are kept in %s", name, path)
        statistics = FeatureStatistics.read(path)
    protocol: Protocol = {"reference": f"{name}, {len(images)} images", "reference_key": fingerprint(content)}
    if statistics.skipped:
        protocol["skipped"] = len(statistics.skipped)
    return statistics, protocol | extractor.protocol


def file_statistics(path: Path, extractor: Extractor) -> tuple[FeatureStatistics, Protocol]:
    """The statistics in a file, for instance pytorch-fid's, keyed by its content; UserError for other features."""
    file = path.expanduser()
    statistics = FeatureStatistics.read(file)
    statistics.check(extractor, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return statistics, {"reference": file.name, "reference_key": digest, **extractor.protocol}
