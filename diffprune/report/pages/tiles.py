"""What a reader in a hurry takes away: a few numbers at the top of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffprune.report.tables.quantities import decimals
from diffprune.report.tables.table import Table

Record = Mapping[str, Any]      # a row's numbers, as a table's records hold them


@dataclass(frozen=True)
class Tile:
    """One `value` with its `title`, and in small letters what it is to be read against."""
    title: str
    value: str
    note: str = ""


def tiles(table: Table, features: str, steps: Sequence[int]) -> list[Tile]:
    """Sizes, measured speed-up, distance with similarity, and the cost of fine-tuning for `steps`, of what is not the dense
    model in a table of rows or of a run's models; nothing of what was not measured. Distances are on these `features`."""
    titled = [(str(next(iter(record.values()))), record) for record in table.records]
    dense = next((record for title, record in titled if title.startswith("dense")), {})
    rows = [(title, record) for title, record in titled if not title.startswith("dense")] or titled
    own = [record for _, record in rows]
    out = [size("parameters", "params", "M", 1e-6, own, dense), size("MACs", "macs", "G", 1e-9, own, dense),
           ranged("measured speed-up", "speedup", 1.0, own, "×", "than the dense model, in turns")]
    return [tile for tile in [*out, quality(f"fid_{features}", rows, dense), cost(own, steps)] if tile is not None]


def size(title: str, key: str, unit: str, scale: float, rows: Sequence[Record], dense: Record) -> Tile | None:
    """What was removed, in percent of the dense model, and what is left."""
    percents = [record[f"{key}_percent"] - 100 for record in rows if record.get(f"{key}_percent") is not None]
    left = span([record[key] * scale for record in rows if record.get(key) is not None])
    if not left:
        return None
    if dense.get(key) is None or not any(percents):
        return Tile(title, f"{left} {unit}")
    removed = " … ".join(dict.fromkeys(f"{percent:+.0f} %".replace("-", "−") for percent in
                                     (max(percents), min(percents))))
    return Tile(title, removed, f"{left} of {number(dense[key] * scale)} {unit}")


def ranged(title: str, key: str, scale: float, rows: Sequence[Record], unit: str, note: str) -> Tile | None:
    """From the least value to the greatest."""
    text = span([record[key] * scale for record in rows if record.get(key) is not None])
    return Tile(title, text + unit, note) if text else None


def quality(key: str, rows: Sequence[tuple[str, Record]], dense: Record) -> Tile | None:
    """The least distance, its configuration and similarity, and the dense model's distance."""
    known = [(title, record) for title, record in rows if record.get(key) is not None]
    if not known:
        return None
    title, best = min(known, key=lambda row: row[1][key])
    notes = [f"dense {number(dense[key])}"] if dense.get(key) is not None and best is not dense else []
    notes += [f"SSIM {best['ssim']:.3f}"] if best.get("ssim") is not None and best is not dense else []
    notes += [f"best of {len(known)}: {title}"] if len(known) > 1 else []
    return Tile("Fréchet distance", number(best[key]), ", ".join(notes))


def cost(rows: Sequence[Record], steps: Sequence[int]) -> Tile | None:
    """The steps of fine-tuning, and what they and compensation took in multiply-accumulates."""
    took = span([record["healing_macs"] * 1e-12 for record in rows if record.get("healing_macs")])
    if not any(steps):
        return Tile("fine-tuning", "none", f"compensation {took} T MACs") if took else None
    return Tile("fine-tuning", f"{span(steps)} steps", f"{took} T MACs, teachers included" if took else "")


def span(values: Sequence[float]) -> str:
    """`1.15 … 1.16`; one number where both ends read alike, nothing without values."""
    return " … ".join(dict.fromkeys(number(value) for value in (min(values), max(values)))) if values else ""


def number(value: float) -> str:
    """At least three significant digits; whole numbers as they are."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals(value, 2)}f}"
