"""Feature statistics: all that is kept of a set of images, whatever its size, to compare it with another set."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.frechet import Gaussian, Moments, statistics_file
from diffprune.evaluation.inception_score import InceptionScore
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file
from diffprune.runtime.progress import progress

NUMBERS, NOTES = ("count", "inception_score"), ("made_with", "skipped")     # entries of a file besides arrays
SUBSET_RULE = "PCG64(0)"    # how the images of a subset are drawn: the name changes when the rule does


@dataclass(frozen=True)
class FeatureStatistics:
    """A set of `count` images as one extractor sees it.

    `gaussian` is fitted to the features of all of them; `features` float32 [M, D] are those of M images drawn from the set
    (None where the file has only the Gaussian); `inception_score` is None for an extractor without classes. `made_with` has
    the extractor's name and its protocol, None where the file lacks both; `skipped` has {name: reason} of images that were
    replaced by others because they cannot be used.
    """
    count: int | None
    gaussian: Gaussian
    features: np.ndarray | None = None
    inception_score: float | None = None
    made_with: dict[str, float | str] | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, extractor: Extractor, images: Iterable[np.ndarray], count: int, kept: int, what: str) -> "FeatureStatistics":
        """Makes one pass over `images`, batches of uint8 [B, H, W, C] with `count` images in total; one batch is in memory.

        The features of at most `kept` images are kept; `what` names the set in messages. Raises UserError for fewer than two
        images, and where there are not exactly `count`.
        """
        if count < 2:
            raise UserError(f"{what}: there are {count} images, a distance between sets takes at least 2 of each")
        moments, score, chosen, rows, done = Moments(), InceptionScore(count), subset_indices(count, kept), [], 0
        for batch in progress(images, f"features, {what}", count, size=len):
            if done + len(batch) > count:
                raise UserError(f"{what}: more than {count} images, {count} are needed")
            features = extractor.features(batch)
            if (logits := extractor.logits(features)) is not None:
                score.add(logits)
            array = features.cpu().numpy()
            moments.add(array)
            rows.append(array[chosen[(chosen >= done) & (chosen < done + len(array))] - done])
            done += len(array)
        if done != count:
            raise UserError(f"{what}: only {done} images, {count} are needed")
        return cls(count, moments.gaussian(), np.concatenate(rows), score.value(), identity(extractor))

    def save(self, path: Path) -> None:
        """Writes a `.npz` file, by rename, which pytorch-fid reads as well (`mu`, `sigma`)."""
        entries = {"mu": self.gaussian.mu, "sigma": self.gaussian.sigma, "count": self.count, "features": self.features,
                   "inception_score": self.inception_score,
                   "made_with": None if self.made_with is None else json.dumps(self.made_with),
                   "skipped": json.dumps(self.skipped) if self.skipped else None}
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in entries.items() if value is not None}
        with atomic_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> "FeatureStatistics":
        """From a file that `save` or pytorch-fid wrote; raises UserError for another."""
        gaussian = Gaussian.read(path)
        with statistics_file(path) as stored:
            entries: dict[str, Any] = {"count": None} | {name: stored[name].item() for name in NUMBERS if name in stored}
            entries |= {name: json.loads(str(stored[name])) for name in NOTES if name in stored}
            return cls(gaussian=gaussian, features=stored.get("features"), **entries)

    def check(self, extractor: Extractor, path: Path) -> None:
        """Raises UserError where these statistics, of the file `path`, were made with another extractor."""
        if self.made_with is not None and self.made_with != identity(extractor):
            raise UserError(f"{path} was made with {described(self.made_with)}, these features are "
                            f"{described(identity(extractor))}: choose the same (--features, evaluate.features), or make "
                            "the file anew")


def identity(extractor: Extractor) -> dict[str, float | str]:
    """What must be equal for two sets of features to be comparable."""
    return {"features": extractor.name, **extractor.protocol}


def described(made_with: dict[str, float | str]) -> str:
    """`inception (features_sha256 0123…)`"""
    details = ", ".join(f"{name} {value}" for name, value in made_with.items() if name != "features")
    return f"{made_with['features']} ({details})"


def subset_indices(count: int, kept: int) -> np.ndarray:
    """`min(count, kept)` of the indices 0 … count-1, ascending: those to which PCG64(0) assigns the smallest numbers.

    They are the same on every machine: NumPy guarantees the generator's raw numbers for all of its versions. Regular steps
    through the set would pick few classes, since image i is of class i modulo their number.
    """
    if kept >= count:
        return np.arange(count)
    return np.sort(np.argsort(np.random.PCG64(0).random_raw(count), kind="stable")[:kept])


def subset_rule(count: int, kept: int) -> dict[str, str]:
    """The rule by which `kept` of `count` images are drawn, for keys and protocols; empty where all are kept."""
    return {"subset_rule": SUBSET_RULE} if kept < count else {}
