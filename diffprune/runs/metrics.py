"""The numbers of one run, and the names under which metrics.json holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diffprune.runtime.files import read_json, write_json

MetricValues = Mapping[str, float | None]     # {metric: value}; None where it was not measured
STATES = {"final": "", "dense": "_dense", "before_healing": "_before_healing"}     # {state: the suffix of its metrics}
SPEED = ("images_per_second", "images_per_second_dense", "speedup")


@dataclass(frozen=True)
class Metrics:
    """What a finished run was measured to be; sizes are parameters and multiply-accumulates of one evaluation of one image.

    `scores` has the metrics of the three models that a run compares: "dense", "before_healing" (pruned, not fine-tuned yet)
    and "final". `features` names the network on whose features distances were computed; only numbers of one `protocol`
    compare. `speed` is empty where it was not timed; `seconds` is the wall-clock time of each stage, `cost` what it took in
    multiply-accumulates, empty in files from before it was counted. `measures` has the title and arrow of each metric that
    `evaluate.metrics` added. `commits` has those of the source at each stage. `held_out_losses` has each model's denoising
    loss on held-out images in equal ranges of timesteps, `first_ssim` the SSIM to dense of the first images of "final" and
    "before_healing" one by one.
    """
    name: str
    dataset: str
    model: str
    pruner: str
    schedule: str
    seed: int
    params: int
    macs: int
    params_dense: int
    macs_dense: int
    features: str
    images: int
    scores: Mapping[str, MetricValues]
    speed: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
    device: str | None = None
    command: str | None = None
    commit: str | None = None
    commits: Mapping[str, list[str]] = field(default_factory=dict)
    measures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    held_out_losses: Mapping[str, list[float]] = field(default_factory=dict)
    first_ssim: Mapping[str, list[float]] = field(default_factory=dict)

    def numbers(self) -> dict[str, float | None]:
        """Sizes, scores of every state and speed under their names in the file: `fid`, `fid_dense`, `ssim`, …."""
        sizes = {name: getattr(self, name) for name in ("params", "macs", "params_dense", "macs_dense", "images")}
        return sizes | {f"{metric}{STATES[state]}": value for state, scores in self.scores.items()
                        for metric, value in scores.items()} | dict(self.speed)

    def write(self, path: Path) -> None:
        """Writes metrics.json by rename."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("scores", "speed")}
        for name in ("measures", "held_out_losses", "first_ssim"):
            if not content[name]:
                del content[name]
        write_json(path, content | self.numbers(), checksum=True)

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """From a file that `write` wrote, in whatever version; what it lacks is empty or None."""
        content = read_json(path)
        named = {entry.name: content.pop(entry.name) for entry in fields(cls) if entry.name in content}
        if named.get("protocol", {}).get("precision") == "no":     # what float32 was called
            named["protocol"]["precision"] = "fp32"
        speed = {name: content.pop(name) for name in SPEED if name in content}
        scores: dict[str, dict[str, float | None]] = {state: {} for state in STATES}
        for name, value in content.items():
            # `fid_to_dense` is a metric of its own, not `fid_to` of the dense model.
            state = next(state for state, suffix in reversed(STATES.items())
                         if name.endswith(suffix) and (state != "dense" or not name.endswith("_to_dense")))
            scores[state][name.removesuffix(STATES[state])] = value
        return cls(**named, scores=scores, speed=speed)
