"""Configurations against a baseline, seed by seed: whether a difference exceeds what seeds alone make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named, configurations, grouped
from diffprune.report.tables.protocol import entries_of, protocol_differences
from diffprune.report.tables.quantities import MAIN, MISSING, Quantity, decimals, quality
from diffprune.report.tables.rows import compared
from diffprune.report.tables.table import Table
from diffprune.runtime.errors import UserError

CONFIDENCE = 0.95
BEYOND = "beyond the seeds' noise: "


@dataclass(frozen=True)
class Difference:
    """`quantity` of `title` minus that of `baseline`; `interval` and `p` are None below two seeds in common."""
    title: str
    baseline: str
    quantity: Quantity
    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the difference is beyond the noise of the seeds, in words."""
        if self.interval is None:
            return "one seed: cannot say" if self.values else "no seed in common: cannot say"
        low, high = self.interval
        if low <= 0 <= high:
            return "within the seeds' noise"
        better = (low > 0) == (self.quantity.arrow == "↑")
        lone = "" if self.p_holm is not None and self.p_holm <= 1 - CONFIDENCE else " (not after Holm's correction)"
        return f"{BEYOND}{'better' if better else 'worse'}{lone}"

    def record(self) -> dict[str, Any]:
        """The numbers at full precision, None for those that the seeds do not give."""
        mean, std = fmean(self.values) if self.values else None, stdev(self.values) if len(self.values) > 1 else None
        low, high = self.interval or (None, None)
        return {"configuration": self.title, "baseline": self.baseline, "quantity": self.quantity.key, "difference": mean,
                "difference_std": std, "n": len(self.values), "low": low, "high": high, "p": self.p, "p_holm": self.p_holm,
                "verdict": self.verdict}

    def cells(self) -> list[str]:
        """The record as people read it."""
        difference = interval = MISSING
        if self.values:
            places = decimals(fmean(self.values), self.quantity.decimals)
            spread = f" ± {stdev(self.values):.{places}f}" if len(self.values) > 1 else ""
            difference = f"{fmean(self.values):+.{places}f}{spread} ({len(self.values)})"
            interval = " to ".join(f"{end:+.{places}f}" for end in self.interval) if self.interval else MISSING
        return [self.title, self.baseline, self.quantity.title, difference, interval, *(
            MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in (self.p, self.p_holm)), self.verdict]


HEADER = ["configuration", "baseline", "quantity", "difference", "95 % interval", "p", "p (Holm)", "verdict"]


def compare_paired(runs: list[Finished], baseline: str | None = None) -> Table | None:
    """Every configuration against `baseline`, by default the one with the best Fréchet distance; None where there is only
    one. Only configurations under one protocol are subtracted from each other. Raises UserError for an unknown baseline."""
    differing = list(protocol_differences(runs))
    groups = grouped(configurations(runs, differing), lambda named: entries_of(named[1][0], differing))
    if baseline is not None:
        baseline = find_title(baseline, [title for group in groups for title, _ in group])
    differences = [difference for group in groups if len(group) > 1 and (baseline is None or baseline in dict(group))
             for difference in differences_to(baseline or best(group), group)]
    if not differences:
        return None
    return Table(HEADER, [difference.cells() for difference in differences if difference.quantity.level == MAIN],
                 [difference.record() for difference in differences])


def find_title(text: str, titles: list[str]) -> str:
    """The configuration that `text` is the name of, or alone in having it in its name; UserError with all names."""
    matches = [title for title in titles if title == text] or [title for title in titles if text in title]
    if len(matches) != 1:
        raise UserError(f"--baseline {text!r} names {len(matches) or 'no'} configurations: give one of {', '.join(titles)}")
    return matches[0]


def best(group: Named) -> str:
    """The configuration with the least mean Fréchet distance, of those with at least two seeds where there are any."""
    several = [(title, runs) for title, runs in group if len(runs) > 1]
    return min(several or group, key=lambda named: fmean(
        distance for run in named[1] if (distance := run.metrics.scores["final"]["fid"]) is not None))[0]


def differences_to(baseline: str, group: Named) -> list[Difference]:
    """Quantity by quantity, every other configuration of `group` against `baseline`, over the seeds that both ran with."""
    measured = {title: {run.options["seed"]: compared(run) for run in runs} for title, runs in group}
    keys = {name for seeds in measured.values() for numbers in seeds.values() for name, value in numbers.items()
             if value is not None}
    corrected: list[Difference] = []
    for quantity in (quantity for quantity in quality(keys) if quantity.key in keys):
        differences = []
        for title, seeds in measured.items():
            pairs = [(numbers[quantity.key], measured[baseline][seed][quantity.key]) for seed, numbers in seeds.items()
                     if seed in measured[baseline]]
            values = tuple(own - other for own, other in pairs if own is not None and other is not None)
            if title != baseline:
                tested = paired_t_test(values) if len(values) > 1 else ()
                differences.append(Difference(title, baseline, quantity, values, *tested))
        corrected += holm(differences)
    return corrected


def paired_t_test(differences: Sequence[float]) -> tuple[tuple[float, float], float]:
    """Student's interval of the mean of at least two `differences` and the two-sided p-value of a mean of 0. Equal
    differences leave no noise: the interval is their value, and p its limit, 0, or 1 where they are 0."""
    if math.isclose(min(differences), max(differences), rel_tol=1e-9):
        return (min(differences), max(differences)), 0.0 if any(differences) else 1.0
    from scipy.stats import ttest_rel  # takes seconds to import, which a run's own report need not wait for

    test = ttest_rel(differences, [0.0] * len(differences))
    interval = test.confidence_interval(CONFIDENCE)
    return (float(interval.low), float(interval.high)), float(test.pvalue)


def holm(differences: list[Difference]) -> list[Difference]:
    """Corrects every p-value for there being several (Holm 1979): (m - rank) p, never below that of a smaller p."""
    tested = sorted((difference.p, i) for i, difference in enumerate(differences) if difference.p is not None)
    corrected, least = {}, 0.0
    for rank, (p, i) in enumerate(tested):
        least = corrected[differences[i].title] = max(least, min(1.0, (len(tested) - rank) * p))
    return [replace(difference, p_holm=corrected.get(difference.title)) for difference in differences]
