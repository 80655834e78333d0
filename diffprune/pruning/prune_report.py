"""The file prune.json: the sizes and widths that pruning reached, in one round or in several."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diffprune.runtime.files import read_json


@dataclass(frozen=True)
class PruneReport:
    """The nominal ratio, the sizes reached, each layer's weight shape, and each group's removed channels of its root.

    After several rounds "before" and "dense" are the model before the first one, and `removed` are its channels; `rounds`
    lists the nominal ratio, params and macs after each. `skipped` lists {"layer", "reason"} of what was left as it was.
    """
    ratio: float
    params: int
    macs: int
    params_dense: int
    macs_dense: int
    layers: dict[str, dict[str, list[int]]] = field(repr=False)
    groups: list[dict[str, Any]] = field(repr=False)
    skipped: list[dict[str, str]] = field(default_factory=list, repr=False)
    rounds: list[dict[str, float]] = field(default_factory=list, repr=False)

    @classmethod
    def read(cls, file: Path) -> "PruneReport":
        """Reads a run's prune.json, whose other entries are ignored."""
        content = read_json(file)
        return cls(**{entry.name: content[entry.name] for entry in fields(cls)})

    def dense_width(self, root: str) -> tuple[int, int]:
        """The channels and the heads that the group of `root` had before the first round."""
        entry = next(entry for entry in self.groups if entry["root"] == root)
        return entry["before"], entry.get("heads", {"before": 1})["before"]

    def kept(self, layer: str, width: int) -> list[int]:
        """Which of the `width` out-channels that `layer` had are left, ascending."""
        removed = next((entry["removed"] for entry in self.groups if layer in entry["layers"]), [])
        return sorted(set(range(width)) - set(removed))

    def following(self, earlier: "PruneReport") -> "PruneReport":
        """The report on this pruning and the `earlier` one together, whose result this one started from."""
        previous = {entry["root"]: entry for entry in earlier.groups}
        layers = {name: shapes | {"before": earlier.layers[name]["before"]} for name, shapes in self.layers.items()}
        # A group that an earlier round narrowed was not skipped.
        skipped = [entry for entry in self.skipped if not previous.get(entry["layer"], {}).get("removed")]
        return replace(self, params_dense=earlier.params_dense, macs_dense=earlier.macs_dense, layers=layers,
                       groups=[joined(previous[entry["root"]], entry) for entry in self.groups], skipped=skipped,
                       rounds=[*earlier.rounds, *self.rounds])


def joined(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """One group's entry for two cuts in turn, with channels numbered as before the first."""
    kept = sorted(set(range(first["before"])) - set(first["removed"]))
    removed = sorted([*first["removed"], *(kept[channel] for channel in then["removed"])])
    entry = then | {"before": first["before"], "removed": removed}
    if "heads" in first:        # a single head is not listed
        entry["heads"] = {"before": first["heads"]["before"], "after": then.get("heads", {"after": 1})["after"]}
    return entry
