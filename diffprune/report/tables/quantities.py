"""How measured values are shown: which of them, under which title, with how many digits."""

import math
from dataclasses import dataclass

from diffprune.report.tables.measures import MEASURES
from diffprune.report.tables.rows import Row

MISSING = "–"
MAIN, REPORT, RECORD = range(3)     # shown in every table; in reports; for programs alone


@dataclass(frozen=True)
class Quantity:
    """How a measured value is shown: times `scale`, with `decimals` but at least three digits that count.

    `share` names the quantity that is the same in percent of the dense model, `level` in which tables it is shown.
    """
    key: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    share: str | None = None
    level: int = MAIN

    def cell(self, row: Row) -> str:
        """`19.85 (55.5 %)`, over seeds `5.29 ± 0.12 (3)`: mean, standard deviation and their number."""
        spread = row.values.get(self.key)
        if spread is None:
            return MISSING
        places, text = decimals(spread.mean * self.scale, self.decimals), self.mean(row)
        if spread.std is not None and (spread.std or self.share is None):
            text += f" ± {spread.std * self.scale:.{places}f} ({spread.n})"
        return f"{text} ({row.values[self.share].mean:.1f} %)" if self.share else text


    def mean(self, row: Row) -> str:
        """The mean as it is printed; the row must have the quantity."""
        value = row.values[self.key].mean * self.scale
        return f"{value:.{decimals(value, self.decimals)}f}"

    @property
    def arrow(self) -> str:
        """Where better values lie: ↑, ↓, or nothing."""
        return self.title[-1] if self.title[-1] in "↑↓" else ""

    @property
    def published_title(self) -> str:
        """`SSIM to dense, published ↑`"""
        name, _, rest = self.title.partition(" [")
        if rest:
            return f"{name}, published [{rest}"
        name, _, rest = self.title.rpartition(" (") if " (" in self.title else (self.title.rstrip(" ↑↓"), "", "")
        return f"{name}, published {self.arrow}".rstrip()

    def published_cell(self, row: Row) -> str:
        """As published, which is how many digits there are."""
        return f"{row.published[self.key] * self.scale:.6g}" if self.key in row.published else MISSING


def decimals(value: float, least: int) -> int:
    """Decimal places that leave at least three significant digits."""
    return least if value == 0 else max(least, 2 - math.floor(math.log10(abs(value))))


def quantities(rows: list[Row], published: bool = False) -> list[Quantity]:
    """What `rows` have, for `published` also what others alone have measured.

    There is one Fréchet distance per kind of features: two kinds never share a column.
    """
    known = {key for row in rows for key in (*row.values, *(row.published if published else ()))}
    features = features_in(known)
    unhealed = [
        *(Quantity(f"unhealed_fid_{name}", f"Fréchet distance before healing ({name} features) ↓") for name in features),
        Quantity("unhealed_ssim", "SSIM before healing ↑", decimals=3),
        *further(features, RECORD, "unhealed_", " before healing")]
    return [
        Quantity("params", "parameters [M]", 1e-6, share="params_percent"),
        Quantity("macs", "MACs [G]", 1e-9, share="macs_percent"),
        *([Quantity("total_macs", "MACs of an image, all steps [G]", 1e-9)] if "total_macs" in known else []),
        *quality(features, known),
        *(quantity for quantity in unhealed if quantity.key in known),
        Quantity("images_per_second", "images/s ↑", decimals=0),
        Quantity("speedup", "speed-up [×] ↑"),
    ]


def quality(features: list[str], known: set[str]) -> list[Quantity]:
    """How good images are and how like the dense model's: Fréchet distance and SSIM, then what else was measured."""
    return [
        *(Quantity(f"fid_{name}", f"Fréchet distance ({name} features) ↓") for name in features),
        Quantity("ssim", "SSIM to dense ↑", decimals=3),
        *(quantity for quantity in further(features, REPORT) if quantity.key in known),
    ]


def further(features: list[str], level: int, prefix: str = "", when: str = "") -> list[Quantity]:
    """The measures beside these two, one for each kind of features where it depends on them."""
    shown = {prefix + measure.name(name): Quantity(prefix + measure.name(name), measure.heading(name, when),
                                                   decimals=measure.decimals, level=level)
             for measure in MEASURES for name in features}
    return list(shown.values())


def features_in(known: set[str]) -> list[str]:
    """The kinds of features on which there is a Fréchet distance to the data."""
    names = (key.removeprefix("fid_") for key in known if key.startswith("fid_"))
    return sorted(name for name in names if not name.startswith("to_dense_"))
