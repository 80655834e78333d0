"""Images per second of this project's loading beside plain iteration with `datasets`, over the same files.

python -m experiments.upkeep.bench_loading CIFAR10 [--images N] [--rounds N] [--workers N]

CIFAR10 is a folder of CIFAR-10's Parquet files. The second set is a made folder of 256-pixel JPEG files, which
`datasets` reads as an `imagefolder`; `datasets` decodes, this project also crops and makes training batches.
Both run in one process, alternating; printed are medians over the rounds and the median of the rounds' ratios.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader

from diffprune.data import cifar10, image_folder

BATCH = 64


def make(folder: Path, count: int) -> None:
    """`count` photographs' worth of JPEG files, 256x256, smooth with some noise, about 30 kB each."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((256, 256))
        noise = rng.integers(-12, 13, (256, 256, 3))
        pixels = (np.asarray(coarse, dtype=np.int64) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.jpg", quality=85)


def plain(kind: str, workers: int, **where: object) -> Callable[[], int]:
    """One pass with `datasets`: decoded images as arrays, read by a loader's processes where there are some."""
    from datasets import load_dataset
    rows = load_dataset(kind, split="train", **where).with_format("numpy")

    def run() -> int:
        if not workers:
            return sum(1 for _ in rows)
        return sum(len(batch) for batch in DataLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=stacked))
    return run


def stacked(rows: list[dict]) -> np.ndarray:
    """What a process sends: the images of some rows, uint8 [B, H, W, C]."""
    return np.stack([next(value for value in row.values() if np.ndim(value) == 3) for row in rows])


def images(folder: Path, count: int, workers: int, memory_gb: float) -> Callable[[], int]:
    """One epoch of training batches from the made folder."""
    def run() -> int:
        loaded = image_folder.load(str(folder), 256, 3, flip=True, workers=workers, memory_gb=memory_gb)
        return sum(len(batch) for batch, _ in loaded.batches(0, count // BATCH, BATCH, seed=0))
    return run


def rate(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def compare(name: str, ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> list[str | float]:
    """A row of the table: alternating runs, the first pair only warms up (file caches, imports)."""
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds + 1)][1:]
    return [name, median(mine for mine, _ in pairs), median(other for _, other in pairs),
            median(mine / other for mine, other in pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.upkeep.bench_loading",
                                     description=__doc__.split("\n", 1)[0])
    parser.add_argument("cifar10", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--images", type=int, default=1024, help="in the made folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.images)
        rows = []
        for workers in (0, chosen.workers):
            rows.append(compare(f"CIFAR-10 test into memory, {workers} processes",
                                lambda w=workers: len(cifar10.load(chosen.cifar10, True, "test", workers=w).pixels),
                                plain("parquet", workers, data_files={"train": f"{chosen.cifar10}/**/test*.parquet"}),
                                chosen.rounds))
            rows.append(compare(f"256-pixel files streamed, {workers} processes",
                                images(Path(folder), chosen.images, workers, memory_gb=0),
                                plain("imagefolder", workers, data_dir=folder), chosen.rounds))
    print(tabulate(rows, ["images per second", "diffprune", "datasets", "ratio"], floatfmt=("", ".0f", ".0f", ".2f"),
                   tablefmt="github"))


if __name__ == "__main__":
    main()
