"""What pruning achieved, in one round or in several."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from diffprune.runtime.files import read_json


@dataclass(frozen=True)
class PruneReport:
    """Sizes, every layer's weight shape before and after, every group's removed root channels.

    In several rounds "before" and "dense" are the model before the first, and `removed` are its channels; `rounds` lists
    the nominal ratio reached, params and macs after each round so far.
    """
    ratio: float
    params: int
    macs: int
    params_dense: int
    macs_dense: int
    layers: dict[str, dict[str, list[int]]]
    groups: list[dict]
    skipped: list[dict[str, str]] = field(default_factory=list)
    rounds: list[dict] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> "PruneReport":
        """From a run's prune.json, which says more besides."""
        content = read_json(file)
        return cls(**{entry.name: content[entry.name] for entry in fields(cls)})

    def since(self, earlier: "PruneReport") -> "PruneReport":
        """The same, counted from where `earlier` began; this pruning began with what that one left."""
        past = {entry["root"]: entry for entry in earlier.groups}
        layers = {name: shapes | {"before": earlier.layers[name]["before"]} for name, shapes in self.layers.items()}
        # A group that has been narrowed before is none that stays as it was.
        skipped = [entry for entry in self.skipped if not past.get(entry["layer"], {}).get("removed")]
        return replace(self, params_dense=earlier.params_dense, macs_dense=earlier.macs_dense, layers=layers,
                       groups=[joined(past[entry["root"]], entry) for entry in self.groups], skipped=skipped,
                       rounds=[*earlier.rounds, *self.rounds])


def joined(first: dict, then: dict) -> dict:
    """One group's entry for two cuts, one after the other, with channels numbered as before the first."""
    left = sorted(set(range(first["before"])) - set(first["removed"]))
    removed = sorted([*first["removed"], *(left[channel] for channel in then["removed"])])
    entry = then | {"before": first["before"], "removed": removed}
    if "heads" in first:        # the last one left is not listed as one of several
        entry["heads"] = {"before": first["heads"]["before"], "after": then.get("heads", {"after": 1})["after"]}
    return entry
