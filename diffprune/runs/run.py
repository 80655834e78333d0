"""Every file name of one run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from diffprune.config.naming import masked, run_name
from diffprune.runtime.files import atomic_file, read_json, remove, sweep_partials


@dataclass(frozen=True)
class Round:
    """The `index`-th (1, 2, …) of the `of` times that a run scores, prunes and heals."""
    index: int = 1
    of: int = 1

    last = property(lambda self: self.index == self.of)

    def ratio(self, total: float) -> float:
        """The nominal ratio in [0, 1), of the dense model's widths, that is reached at the end of this round."""
        return total if self.last else total * self.index / self.of     # not r * k / k, which is not always r

    def steps_before(self, total: int) -> int:
        """How many of `total` healing steps the rounds before have taken."""
        return total * (self.index - 1) // self.of

    def healing(self, cfg: DictConfig) -> DictConfig:
        """`cfg` with this round's own steps: learning rate and moving average run over them from the start."""
        total = cfg.schedule.steps
        own = total * self.index // self.of - self.steps_before(total)
        return OmegaConf.merge(cfg, {"schedule": {"steps": own}})

    def __str__(self) -> str:
        """What is said of it after a stage's name; nothing where there is one alone."""
        return "" if self.of == 1 else f", round {self.index} of {self.of}"


@dataclass(frozen=True)
class Run:
    """One run's folder; it alone joins paths inside it.

    Where a run has several rounds each but the last has a folder in it that looks like a run's: then `round` says which
    this is, and `before` is the one that it goes on from.
    """
    folder: Path
    round: Round = field(default_factory=Round)
    before: "Run | None" = None

    @classmethod
    def of(cls, cfg: DictConfig) -> "Run":
        """The folder that belongs to the experiment in `cfg`; nothing is created."""
        return cls(Path(cfg.paths.runs) / cfg.dataset.name / run_name(cfg))

    name = property(lambda self: self.folder.name)
    config = property(lambda self: self.folder / ".hydra" / "config.yaml")
    scores = property(lambda self: self.folder / "scores.safetensors")
    prune_report = property(lambda self: self.folder / "prune.json")
    pruned = property(lambda self: self.folder / "pruned")
    finetune = property(lambda self: self.folder / "finetune")
    states = property(lambda self: sorted(self.finetune.glob("state-*.safetensors")))     # the newest is the last
    progress = property(lambda self: self.finetune / "progress.jsonl")
    finetuned = property(lambda self: self.folder / "finetuned")
    samples = property(lambda self: self.folder / "samples")
    images = property(lambda self: self.samples / "images.npy")
    samples_report = property(lambda self: self.samples / "samples.json")
    grid = property(lambda self: self.samples / "grid.png")
    metrics = property(lambda self: self.folder / "metrics.json")
    report = property(lambda self: self.folder / "report.html")
    standing = property(lambda self: self.folder / "status.json")
    data = property(lambda self: self.whole / "data.json")
    skipped = property(lambda self: self.whole / "skipped.txt")

    @property
    def whole(self) -> Path:
        """The folder of the whole run, of which this may be an earlier round."""
        return self.folder if self.round.last else self.folder.parent.parent

    def moved(self, cfg: DictConfig) -> bool:
        """Whether the run was begun with data from another place than `cfg` names."""
        return self.data.exists() and read_json(self.data)["path"] != cfg.dataset.path

    def rounds(self, cfg: DictConfig) -> list["Run"]:
        """The `schedule.rounds` rounds in order: the last one's files are those of the run itself."""
        found: list[Run] = []
        for index in range(1, cfg.schedule.rounds + 1):
            here = Round(index, cfg.schedule.rounds)
            folder = self.folder if here.last else self.folder / "rounds" / str(index)
            found.append(Run(folder, here, found[-1] if found else None))
        return found

    @property
    def earlier(self) -> list["Run"]:
        """The folders of the rounds before the last that are there."""
        return [Run(folder) for folder in sorted((self.folder / "rounds").glob("*"))]

    def state(self, step: int) -> Path:
        return self.finetune / f"state-{step:07d}.safetensors"

    def preview(self, step: int) -> Path:
        return self.finetune / f"preview-{step:06d}.png"

    def final(self, cfg: DictConfig) -> Path:
        """The model folder that is sampled: the healed one, or the pruned one where nothing is trained."""
        return self.finetuned if cfg.schedule.steps else self.pruned

    def open(self, cfg: DictConfig) -> None:
        """Writes down what was asked, only when that is new, and clears what a killed process left: files half written,
        and states of a healing that is over.
        """
        asked = OmegaConf.to_yaml(masked(cfg), resolve=True)
        if not self.config.exists() or self.config.read_text() != asked:
            with atomic_file(self.config) as partial:
                partial.write_text(asked)
        for run in (*self.earlier, self):
            for folder in (run.folder, run.finetune, run.samples):
                sweep_partials(folder)
            for state in run.states if run.finetuned.exists() else ():
                remove(state)

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds per stage before the evaluation, over all rounds, from the stages' own files."""
        total: dict[str, float] = {}
        for run in (*self.earlier, self):
            for stage, seconds in run.own_seconds().items():
                total[stage] = round(total.get(stage, 0) + seconds, 3)
        return total | {"sample": read_json(self.samples_report)["seconds"]}

    def own_seconds(self) -> dict[str, float]:
        """Those of scoring, pruning and healing in this folder."""
        with safe_open(self.scores, "np") as file:
            seconds = {"score": json.loads(file.metadata()["about"])["seconds"]}
        seconds["prune"] = read_json(self.prune_report)["seconds"]
        if self.progress.exists():
            seconds["finetune"] = json.loads(self.progress.read_text().splitlines()[-1])["seconds"]
        return seconds
