"""`python -m experiments.upkeep.bench_evaluation`: the feature pass beside pytorch-fid's, on the same images."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from diffprune.diffusion.pixels import batches
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.features.inception import inception_weights, replaced
from diffprune.evaluation.image_files import open_images

KEPT = 10_000
BATCH = 50              # pytorch-fid's own


def noise(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: what the images show does not matter to the clock."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png_folder(images: np.ndarray, folder: Path) -> Path:
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:06d}.png")
    return folder


def theirs(weights: str, folder: Path) -> Callable[[], object]:
    """What pytorch-fid's command does with a folder, its network loaded before the clock starts."""
    import pytorch_fid.fid_score as score
    import pytorch_fid.inception as source
    with replaced(source, "load_state_dict_from_url", lambda url, **_: inception_weights(url, weights)):
        network = source.InceptionV3([source.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    workers = torch.get_num_threads()
    return lambda: score.compute_statistics_of_path(str(folder), network, BATCH, 2048, "cpu", workers)


def ours(extractor: Extractor, images: np.ndarray | None, folder: Path) -> Callable[[], object]:
    """The same from files or, where `images` are given, from memory; it gives all metrics' ingredients, not one's."""
    def work() -> FeatureStatistics:
        parts = batches(images, BATCH) if images is not None else open_images(folder).chunks(BATCH)
        count = len(images) if images is not None else len(open_images(folder))
        return FeatureStatistics.of(extractor, parts, count, KEPT, "images")
    return work


def alternating(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each of `works`, in turns; the first turn warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m experiments.upkeep.bench_evaluation", description=__doc__)
    options.add_argument("weights", help="pytorch-fid's Inception weights (a local file)")
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--size", type=int, default=32, help="pixels of a side")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, help="also write the seconds here")
    chosen = options.parse_args()
    images, extractor = noise(chosen.images, chosen.size), load_extractor("inception", chosen.weights)
    with tempfile.TemporaryDirectory() as place:
        folder = png_folder(images, Path(place))
        seconds = alternating({"pytorch-fid, PNG files": theirs(chosen.weights, folder),
                               "this project, PNG files": ours(extractor, None, folder),
                               "this project, from memory": ours(extractor, images, folder)}, chosen.rounds)
    first = next(iter(seconds.values()))
    rows = [[name, median(times), chosen.images / median(times),
             median(a / b for a, b in zip(first, times, strict=True))] for name, times in seconds.items()]
    print(tabulate(rows, ["feature pass", "seconds", "images/s", "times as fast"], floatfmt=".2f"))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(seconds, indent=2) + "\n")


if __name__ == "__main__":
    main()
