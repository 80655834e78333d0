"""How measured values are shown: which of them, under which title, with how many digits."""

import math
from dataclasses import dataclass, replace

from diffprune.report.tables.measures import MEASURES
from diffprune.report.tables.rows import Row

MISSING = "–"
MAIN, REPORT, RECORD = range(3)     # shown in every table; in reports; for programs alone
ALWAYS = ("fid", "ssim")            # the measures that every table shows
SIZE, QUALITY, LIKENESS, SPEED = GROUPS = ("size", "quality", "likeness", "speed and cost")


@dataclass(frozen=True)
class Quantity:
    """How a measured value is shown: times `scale`, with `decimals` places but at least three significant digits, in one of
    GROUPS, `first` among the few columns that a page begins with. `percent_key` names the quantity that is the same in
    percent of the dense model, `level` says in which tables it is shown. A `published` quantity shows the value that others
    have published."""
    key: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    percent_key: str | None = None
    level: int = MAIN
    published: bool = False
    group: str = QUALITY
    first: bool = False

    def cell(self, row: Row) -> str:
        """The row's value in words: `19.85 (55.5 %)`, over seeds `5.29 ± 0.12 (3)`: mean, standard deviation and their
        number. A published value has as many digits as were published."""
        value, spread = self.number(row), row.values.get(self.key)
        if value is None:
            return MISSING
        if self.published or spread is None:
            return f"{value * self.scale:.6g}"
        text = self.mean(row)
        if spread.std is not None and (spread.std or self.percent_key is None):
            text += f" ± {spread.std * self.scale:.{decimals(value * self.scale, self.decimals)}f} ({spread.n})"
        return f"{text} ({row.values[self.percent_key].mean:.1f} %)" if self.percent_key else text

    def mean(self, row: Row) -> str:
        """The mean as it is printed; the row must have the quantity."""
        value = row.values[self.key].mean * self.scale
        return f"{value:.{decimals(value, self.decimals)}f}"

    def number(self, row: Row) -> float | None:
        """The row's mean, or its published value; None where it has none."""
        return row.published.get(self.key) if self.published else row.mean(self.key)

    @property
    def arrow(self) -> str:
        """Where better values lie: ↑, ↓, or nothing."""
        return self.title[-1] if self.title[-1] in "↑↓" else ""

    @property
    def as_published(self) -> "Quantity":
        """The same quantity as others have published it: `SSIM to dense, published ↑`."""
        name, bracket, unit = self.title.partition(" [")
        if not bracket:
            name, unit = self.title.rpartition(" (")[0] or self.title.rstrip(" ↑↓"), self.arrow
        return replace(self, published=True, title=f"{name}, published {bracket.strip()}{unit}".rstrip())


def decimals(value: float, least: int) -> int:
    """Decimal places that leave at least three significant digits."""
    return least if value == 0 else max(least, 2 - math.floor(math.log10(abs(value))))


def quantities(rows: list[Row], published: bool = False) -> list[Quantity]:
    """The quantities that `rows` have, for `published` also those that others alone have measured. There is one Fréchet
    distance per kind of features: two kinds never share a column."""
    keys = {key for row in rows for key in (*row.values, *(row.published if published else ()))}
    return [
        Quantity("params", "parameters [M]", 1e-6, percent_key="params_percent", group=SIZE, first=True),
        Quantity("macs", "MACs [G]", 1e-9, percent_key="macs_percent", group=SIZE, first=True),
        *([Quantity("total_macs", "MACs of an image, all steps [G]", 1e-9, group=SIZE)] if "total_macs" in keys else []),
        *quality(keys),
        *quality(keys, before_healing=True),
        *([Quantity("healing_macs", "MACs of healing [T]", 1e-12, level=REPORT, group=SPEED)]
          if "healing_macs" in keys else []),
        Quantity("images_per_second", "images/s ↑", decimals=0, group=SPEED),
        Quantity("speedup", "speed-up [×] ↑", group=SPEED, first=True),
    ]


def quality(keys: set[str], before_healing: bool = False) -> list[Quantity]:
    """How good images are and how like the dense model's: Fréchet distance and SSIM, then what else was measured. A measure
    that depends on features has a quantity for each kind of them. Before healing, only what was measured is there."""
    prefix, further = ("unhealed_", RECORD) if before_healing else ("", REPORT)
    own = sorted(key for key in keys if key[-1] in "↑↓" and key.startswith("unhealed_") == before_healing)
    listed = [Quantity(key, measure.heading(features, before_healing), decimals=measure.decimals,
                       level=MAIN if measure.key in ALWAYS else further, group=LIKENESS if measure.to_dense else QUALITY,
                       first=measure.key == "fid" or (measure.key == "ssim" and not before_healing))
              for measure in MEASURES for features in (features_in(keys) if measure.of_features else [""])
              if (key := prefix + measure.name(features)) in keys or (measure.key in ALWAYS and not before_healing)]
    return listed + [Quantity(key, key.replace("unhealed_", "before healing: "), level=further) for key in own]


def features_in(keys: set[str]) -> list[str]:
    """The kinds of features on which there is a Fréchet distance to the data."""
    names = (key.removeprefix("fid_") for key in keys if key.startswith("fid_"))
    return sorted(name for name in names if not name.startswith("to_dense_"))
