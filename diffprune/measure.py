"""`python -m diffprune.measure IMAGES REFERENCE`: the scores of any images, however they were made."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from diffprune.command import one_sentence
from diffprune.errors import UserError
from diffprune.features import EXTRACTORS, load_extractor
from diffprune.features.extractor import Extractor
from diffprune.metrics import Settings, against
from diffprune.models import device_named
from diffprune.pictures import pictures
from diffprune.portrait import Portrait
from diffprune.similarity import similarity


def paired(images: Path, reference: Path, batch: int, window: int) -> dict[str, float | None]:
    """SSIM (of `window` pixels), PSNR and RMSE of image i to image i; raises UserError for unequal numbers of images."""
    a, b = pictures(images), pictures(reference)
    if len(a) != len(b):
        raise UserError(f"{images} holds {len(a)} images, {reference} holds {len(b)}: leave --pairs out")
    return similarity(zip(a.chunks(batch), b.chunks(batch), strict=True), window)


def portrait(path: Path, extractor: Extractor, batch: int, kept: int) -> Portrait:
    """Of the images at `path`, or read from a `.npz` file of statistics."""
    if path.suffix == ".npz":
        return Portrait.read(path)
    of = pictures(path)
    return Portrait.of(extractor, of.chunks(batch), len(of), kept, str(path))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m diffprune.measure", description=__doc__)
    place = "a folder of images, a .npy file (uint8 [N, H, W, C]) or a run folder"
    options.add_argument("images", type=Path, help=place)
    options.add_argument("reference", type=Path, nargs="?", help=f"{place}, or statistics (.npz) as pytorch-fid writes them")
    options.add_argument("--features", choices=sorted(EXTRACTORS), default="inception")
    options.add_argument("--weights", help="a local weight file (or folder) for the features")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--subset", type=int, default=10_000, help="images of each set for KID, precision and recall")
    options.add_argument("--kid-subset", type=int, default=1000, help="images in each of KID's 100 random subsets")
    options.add_argument("--neighbours", type=int, default=3, help="k of precision and recall")
    options.add_argument("--pairs", type=int, metavar="WINDOW", help="also SSIM, PSNR and RMSE of image i to i")
    options.add_argument("--save", type=Path, metavar="NPZ", help="write the images' statistics for later")
    return options


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser().parse_args()
    with one_sentence():
        extractor = load_extractor(options.features, options.weights).to(device_named(options.device))
        seen = portrait(options.images, extractor, options.batch, options.subset)
        if options.save is not None:
            seen.save(options.save)
        if options.reference is not None:
            print(json.dumps(scores(options, seen, extractor), indent=2))


def scores(options: argparse.Namespace, seen: Portrait, extractor: Extractor) -> dict[str, Any]:
    """Everything that was asked for of the images that were `seen`, with what it was computed on."""
    reference = portrait(options.reference, extractor, options.batch, options.subset)
    found: dict[str, Any] = {"features": extractor.name, **extractor.about}
    found |= {"images": seen.count, "images_reference": reference.count}
    found |= against(seen, reference, Settings(options.kid_subset, options.neighbours))
    if options.pairs is not None:
        found |= paired(options.images, options.reference, options.batch, options.pairs)
    return found


if __name__ == "__main__":
    main()
