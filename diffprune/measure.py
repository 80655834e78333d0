"""`python -m diffprune.measure IMAGES REFERENCE`: the scores of any images, however they were made."""

import argparse
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffprune.evaluation.feature_statistics import FeatureStatistics, subset_rule
from diffprune.evaluation.features import EXTRACTORS, load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.image_files import ImageFiles, check_partners, open_images
from diffprune.evaluation.pair_metrics import similarity
from diffprune.evaluation.set_metrics import Settings, against
from diffprune.models.device import device_named
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError


def paired(images: Path, reference: Path, batch: int, window: int, channels: int = 3) -> dict[str, float | None]:
    """SSIM (of `window` pixels), PSNR and RMSE of image i to image i; UserError for sets that make no pairs."""
    a, b = pair(images, reference, window, channels)
    return similarity(zip(a.chunks(batch), b.chunks(batch), strict=True), window)


def pair(images: Path, reference: Path, window: int, channels: int) -> tuple[ImageFiles, ImageFiles]:
    """Both sets, files read as `channels` or as the other set's; UserError where image i and image i do not compare."""
    a = open_images(images, channels)
    b = open_images(reference, a.shape[2])
    if a.shape[2] != b.shape[2]:
        a = open_images(images, b.shape[2])
    if len(a) != len(b):
        raise UserError(f"{images} holds {len(a)} images, {reference} holds {len(b)}: leave --pairs out")
    if a.shape != b.shape:
        raise UserError(f"{images} holds images of shape {list(a.shape)}, {reference} of {list(b.shape)} (height, width, "
                        "channels): leave --pairs out")
    check_partners(a, b)
    side = min(a.shape[:2])
    if window > side or window % 2 == 0:
        raise UserError(f"--pairs {window} does not fit images of {a.shape[1]}x{a.shape[0]} pixels: choose an odd number up "
                        f"to {side - 1 + side % 2}")
    return a, b


def statistics_of(path: Path, extractor: Extractor, batch: int, kept: int) -> tuple[FeatureStatistics, str]:
    """Of the images at `path`, or read from a `.npz` file of statistics, and 8 hex digits of the SHA-256 of either."""
    if path.suffix == ".npz":
        read = FeatureStatistics.read(path)
        read.check(extractor, path)
        return read, hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    images, digest = open_images(path, channels_of(extractor)), hashlib.sha256()

    def hashed() -> Iterator[np.ndarray]:
        for some in images.chunks(batch):
            digest.update(np.ascontiguousarray(some).data)
            yield some

    statistics = FeatureStatistics.of(extractor, hashed(), len(images), kept, str(path))
    return statistics, digest.hexdigest()[:8]


def channels_of(extractor: Extractor) -> int:
    """The number of channels that image files are read with for `extractor`: that of its input, else 3."""
    return 3 if extractor.takes is None else extractor.takes[0]


def at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is outside its range: give a whole number from {low} on")
        return int(text)
    return number


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m diffprune.measure", description=__doc__)
    place = "a folder of images, a .npy file (uint8 [N, H, W, C]) or a run folder"
    options.add_argument("images", type=Path, help=place)
    options.add_argument("reference", type=Path, nargs="?", help=f"{place}, or statistics (.npz) as pytorch-fid writes them")
    options.add_argument("--features", choices=sorted(EXTRACTORS), default="inception")
    options.add_argument("--weights", help="a local weight file (or folder) for the features")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options.add_argument("--batch", type=at_least(1), default=64)
    options.add_argument("--subset", type=at_least(2), default=10_000, help="images of each set for KID, precision, recall")
    options.add_argument("--kid-subset", type=at_least(2), default=1000, help="images in each of KID's 100 random subsets")
    options.add_argument("--neighbours", type=at_least(1), default=3, help="k of precision and recall")
    options.add_argument("--pairs", type=at_least(3), metavar="WINDOW", help="also SSIM, PSNR and RMSE of image i to i")
    options.add_argument("--save", type=Path, metavar="NPZ", help="write the images' statistics for later")
    return options


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser().parse_args()
    with one_sentence():
        if options.save is not None and options.save.is_dir():
            raise UserError(f"--save {options.save} is a folder: give a file name ending in .npz")
        extractor = load_extractor(options.features, options.weights).to(device_named(options.device))
        if options.pairs is not None:       # fail before the features are computed
            if options.reference is None:
                raise UserError("--pairs compares with the images of a REFERENCE: give one, or leave --pairs out")
            pair(options.images, options.reference, options.pairs, channels_of(extractor))
        statistics, _ = statistics_of(options.images, extractor, options.batch, options.subset)
        if options.save is not None:
            statistics.save(options.save)
        if options.reference is not None:
            print(json.dumps(scores(options, statistics, extractor), indent=2))


def scores(options: argparse.Namespace, statistics: FeatureStatistics, extractor: Extractor) -> dict[str, Any]:
    """The requested scores of the images with these `statistics`, with the protocol they were computed under."""
    reference, key = statistics_of(options.reference, extractor, options.batch, options.subset)
    values: dict[str, Any] = {
        "features": extractor.name, **extractor.protocol, "images": statistics.count, "images_reference": reference.count,
        "reference_key": key, "subset": options.subset,
        **subset_rule(max(statistics.count or 0, reference.count or 0), options.subset),
        "kid_subset": options.kid_subset, "neighbours": options.neighbours, "ssim_window": options.pairs,
        **against(statistics, reference, Settings(options.kid_subset, options.neighbours))}
    if options.pairs is not None:
        values |= paired(options.images, options.reference, options.batch, options.pairs, channels_of(extractor))
    return values


if __name__ == "__main__":
    main()
