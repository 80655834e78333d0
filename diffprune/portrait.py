"""What is kept of a set of images, whatever its size, to compare it with another."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffprune.errors import UserError
from diffprune.features.extractor import Extractor
from diffprune.files import appearing
from diffprune.frechet import Moments, Statistics
from diffprune.inception_score import InceptionScore
from diffprune.progress import progress


@dataclass(frozen=True)
class Portrait:
    """A set of `count` images as one extractor sees it.

    `statistics` are those of all of them; `features` float32 [M, D] those of M images spread evenly over the set (None
    where only statistics are known); `inception_score` is None for an extractor without classes.
    """
    count: int | None
    statistics: Statistics
    features: np.ndarray | None = None
    inception_score: float | None = None

    @classmethod
    def of(cls, extractor: Extractor, images: Iterable[np.ndarray], count: int, kept: int, what: str) -> "Portrait":
        """One pass over `images` (batches of uint8 [B, H, W, C], `count` in all), of which only one is in memory.

        At most `kept` images' features stay. Raises UserError when the images are not as many as said.
        """
        moments, score, chosen, rows, done = Moments(), InceptionScore(count), spread(count, kept), [], 0
        for batch in progress(images, f"features, {what}", count, size=len):
            if done + len(batch) > count:
                raise UserError(f"{what}: more than {count} images were there, {count} are needed")
            features = extractor.features(batch)
            if (logits := extractor.logits(features)) is not None:
                score.add(logits)
            found = features.cpu().numpy()
            moments.add(found)
            rows.append(found[chosen[(chosen >= done) & (chosen < done + len(found))] - done])
            done += len(found)
        if done != count:
            raise UserError(f"{what}: only {done} images were there, {count} are needed")
        return cls(count, moments.statistics(), np.concatenate(rows), score.value())

    def save(self, path: Path) -> None:
        """Writes a `.npz` file, by rename, which pytorch-fid reads as well (`mu`, `sigma`)."""
        known = {"count": self.count, "features": self.features, "inception_score": self.inception_score}
        with appearing(path) as partial, partial.open("wb") as file:
            np.savez(file, mu=self.statistics.mu, sigma=self.statistics.sigma,
                     **{name: np.asarray(value) for name, value in known.items() if value is not None})

    @classmethod
    def read(cls, path: Path) -> "Portrait":
        """From a file that `save` or pytorch-fid wrote; raises UserError for another."""
        statistics = Statistics.read(path)
        with np.load(path, allow_pickle=False) as stored:
            known = {name: stored[name] for name in ("count", "features", "inception_score") if name in stored}
        score = known.get("inception_score")
        return cls(int(known["count"]) if "count" in known else None, statistics, known.get("features"),
                   None if score is None else float(score))


def spread(count: int, kept: int) -> np.ndarray:
    """`min(count, kept)` indices of 0 … count-1, evenly spaced, ascending."""
    kept = min(count, kept)
    return np.arange(kept) * count // kept
