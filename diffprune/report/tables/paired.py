"""Configurations against a baseline, seed by seed: whether a difference exceeds what seeds alone make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import configurations, grouped
from diffprune.report.tables.protocol import parts_of, protocol_differences
from diffprune.report.tables.quantities import MAIN, Quantity, decimals, features_in, quality
from diffprune.report.tables.rows import Numbers, compared
from diffprune.report.tables.table import MISSING, Table
from diffprune.runtime.errors import UserError

CONFIDENCE = 0.95
NOTE = ("Differences to the baseline over the seeds that both ran with: mean ± standard deviation (number of seeds), "
        "Student's 95 % interval of the mean, p of the two-sided paired t-test. A difference is beyond the seeds' noise "
        "where the interval excludes 0; p (Holm) is corrected for all the table's differences of that quantity.")
CHOSEN = ("The baseline is the configuration with the best Fréchet distance of those with at least two seeds, which its own "
          "luck helped it to be: --baseline names another one.")


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
        if self.interval is None:
            return "one seed: cannot say" if self.values else "no seed in common: cannot say"
        low, high = self.interval
        if low <= 0 <= high:
            return "within the seeds' noise"
        better = (low > 0) == self.quantity.title.endswith("↑")
        lone = "" if self.p_holm is not None and self.p_holm <= 1 - CONFIDENCE else " (not after Holm's correction)"
        return f"beyond the seeds' noise: {'better' if better else 'worse'}{lone}"

    def cells(self) -> list[str]:
        return [self.title, self.baseline, self.quantity.title, *self.numbers(), *map(probability, (self.p, self.p_holm)),
                self.verdict]

    def sorting(self) -> list[float | None]:
        """A number to sort by for each of `cells`."""
        low, _ = self.interval or (None, None)
        return [None, None, None, fmean(self.values) if self.values else None, low, self.p, self.p_holm, None]

    def numbers(self) -> list[str]:
        """The mean difference with its spread, and its interval."""
        if not self.values:
            return [MISSING, MISSING]
        places = decimals(fmean(self.values), self.quantity.decimals)
        spread = f" ± {stdev(self.values):.{places}f}" if len(self.values) > 1 else ""
        interval = " to ".join(f"{end:+.{places}f}" for end in self.interval) if self.interval else MISSING
        return [f"{fmean(self.values):+.{places}f}{spread} ({len(self.values)})", interval]

    def record(self) -> dict[str, str | float | None]:
        low, high = self.interval or (None, None)
        return {"configuration": self.title, "baseline": self.baseline, "quantity": self.quantity.key,
                "difference": fmean(self.values) if self.values else None,
                "difference_std": stdev(self.values) if len(self.values) > 1 else None, "n": len(self.values),
                "low": low, "high": high, "p": self.p, "p_holm": self.p_holm, "verdict": self.verdict}


HEADER = ["configuration", "baseline", "quantity", "difference", "95 % interval", "p", "p (Holm)", "verdict"]


def compare_paired(runs: list[Finished], baseline: str | None = None) -> Table | None:
    """Every configuration against `baseline`, by default the one with the best Fréchet distance; None where there is one.

    Only configurations under one protocol are subtracted from each other. Raises UserError for an unknown baseline.
    """
    differing = list(protocol_differences(runs))
    groups = grouped(configurations(runs, differing), lambda named: parts_of(named[1][0], differing))
    measured = [{title: seeds(group) for title, group in named} for named in groups]
    if baseline is not None:
        baseline = find_title(baseline, [title for group in measured for title in group])
    found = [difference for group in measured if len(group) > 1 and (baseline is None or baseline in group)
             for difference in differences_to(baseline or best(group), group)]
    if not found:
        return None
    shown = [difference for difference in found if difference.quantity.level == MAIN]
    return Table(HEADER, [difference.cells() for difference in shown], [difference.record() for difference in found],
                 numbers=[difference.sorting() for difference in shown])


def seeds(group: list[Finished]) -> dict[int, Numbers]:
    """{seed: what its run measured}"""
    return {run.options["seed"]: compared(run) for run in group}


def find_title(text: str, titles: list[str]) -> str:
    """The configuration that `text` is the name of, or alone in having it in its name; UserError with all names."""
    found = [title for title in titles if title == text] or [title for title in titles if text in title]
    if len(found) != 1:
        raise UserError(f"--baseline {text!r} names {len(found) or 'no'} configurations: give one of {', '.join(titles)}")
    return found[0]


def best(group: dict[str, dict[int, Numbers]]) -> str:
    """The configuration with the least mean Fréchet distance, of those with at least two seeds where there are any."""
    def distances(title: str) -> list[float]:
        (features,) = {name for numbers in group[title].values() for name in features_in(set(numbers))}
        return [distance for numbers in group[title].values() if (distance := numbers[f"fid_{features}"]) is not None]

    several = [title for title in group if len(group[title]) > 1]
    return min(several or group, key=lambda title: fmean(distances(title)))


def differences_to(baseline: str, group: dict[str, dict[int, Numbers]]) -> list[Difference]:
    """Quantity by quantity, every other configuration of `group` against `baseline`."""
    known = {name for runs in group.values() for numbers in runs.values() for name, value in numbers.items()
             if value is not None}
    return [difference for quantity in quality(features_in(known), known) if quantity.key in known
            for difference in holm([subtracted(title, baseline, quantity, group) for title in group if title != baseline])]


def subtracted(title: str, baseline: str, quantity: Quantity, group: dict[str, dict[int, Numbers]]) -> Difference:
    one, other = group[title], group[baseline]
    pairs = [(one[seed].get(quantity.key), other[seed].get(quantity.key)) for seed in one if seed in other]
    values = tuple(a - b for a, b in pairs if a is not None and b is not None)
    return Difference(title, baseline, quantity, values, *(paired_t_test(values) if len(values) > 1 else ()))


def paired_t_test(differences: Sequence[float]) -> tuple[tuple[float, float], float]:
    """Student's interval of the mean of at least two `differences` and the two-sided p-value of a mean of 0.

    Equal differences leave no noise: the interval is their value, and p its limit, 0, or 1 where they are 0.
    """
    if math.isclose(min(differences), max(differences), rel_tol=1e-9):
        return (min(differences), max(differences)), 0.0 if any(differences) else 1.0
    from scipy.stats import ttest_rel  # takes seconds to import, which a run's own report need not wait for

    test = ttest_rel(differences, [0.0] * len(differences))
    interval = test.confidence_interval(CONFIDENCE)
    return (float(interval.low), float(interval.high)), float(test.pvalue)


def holm(found: list[Difference]) -> list[Difference]:
    """With every p-value corrected for there being several (Holm 1979): (m - rank) p, never below that of a smaller p."""
    tested = sorted((difference.p, i) for i, difference in enumerate(found) if difference.p is not None)
    corrected, least = {}, 0.0
    for rank, (p, i) in enumerate(tested):
        least = corrected[found[i].title] = max(least, min(1.0, (len(tested) - rank) * p))
    return [replace(difference, p_holm=corrected.get(difference.title)) for difference in found]


def probability(p: float | None) -> str:
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
