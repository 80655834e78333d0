"""Every file name of one run."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.score_file import ScoreHeader
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, read_json, remove, sweep_partials


@dataclass(frozen=True)
class Round:
    """The `index`-th (1, 2, …) of the `of` times that a run scores, prunes and fine-tunes."""
    index: int = 1
    of: int = 1

    last = property(lambda self: self.index == self.of)

    def ratio(self, total: float) -> float:
        """The nominal ratio in [0, 1), of the dense model's widths, that is reached at the end of this round."""
        return total if self.last else total * self.index / self.of     # not r * k / k, which is not always r

    def steps_before(self, total: int) -> int:
        """How many of `total` training steps earlier rounds have taken."""
        return total * (self.index - 1) // self.of

    def steps(self, total: int) -> int:
        """How many of `total` training steps belong to this round."""
        return total * self.index // self.of - self.steps_before(total)

    def __str__(self) -> str:
        """What follows a stage's name in messages; empty where there is one round."""
        return "" if self.of == 1 else f", round {self.index} of {self.of}"


@dataclass(frozen=True)
class Run:
    """One run's folder; it alone joins paths inside it.

    Where a run has several rounds, each but the last has a folder in it that looks like a run's: then `round` says which
    one this is, and `previous` is the round that it goes on from.
    """
    folder: Path
    round: Round = field(default_factory=Round)
    previous: "Run | None" = None

    name = property(lambda self: self.folder.name)
    config = property(lambda self: self.folder / ".hydra" / "config.yaml")
    scores = property(lambda self: self.folder / "scores.safetensors")
    prune_report = property(lambda self: self.folder / "prune.json")
    pruned = property(lambda self: self.folder / "pruned")
    finetune = property(lambda self: self.folder / "finetune")
    states = property(lambda self: sorted(self.finetune.glob("state-*.safetensors")))     # the newest is the last
    log = property(lambda self: self.folder / "diffprune.log")
    progress = property(lambda self: self.finetune / "progress.jsonl")
    held_out_losses = property(lambda self: self.finetune / "held_out.json")
    finetuned = property(lambda self: self.folder / "finetuned")
    samples = property(lambda self: self.folder / "samples")
    images = property(lambda self: self.samples / "images.npy")
    samples_report = property(lambda self: self.samples / "samples.json")
    grid = property(lambda self: self.samples / "grid.png")
    metrics = property(lambda self: self.folder / "metrics.json")
    report = property(lambda self: self.folder / "report.html")
    status = property(lambda self: self.folder / "status.json")
    data = property(lambda self: self.whole / "data.json")
    model = property(lambda self: self.whole / "model.json")
    provenance = property(lambda self: self.whole / "provenance.json")
    tracked = property(lambda self: self.folder / "tracked.json")       # the run's address in W&B
    skipped = property(lambda self: self.whole / "skipped.txt")

    @property
    def whole(self) -> Path:
        """The folder of the whole run, of which this may be an earlier round."""
        return self.folder if self.round.last else self.folder.parent.parent

    def rounds(self, count: int) -> list["Run"]:
        """The `count` rounds in order; the files of the last are those of the run itself."""
        rounds: list[Run] = []
        for index in range(1, count + 1):
            here = Round(index, count)
            folder = self.folder if here.last else self.folder / "rounds" / str(index)
            rounds.append(Run(folder, here, rounds[-1] if rounds else None))
        return rounds

    @property
    def earlier(self) -> list["Run"]:
        """The folders of the rounds before the last that are there."""
        return [Run(folder) for folder in sorted((self.folder / "rounds").glob("*"))]

    def state(self, step: int) -> Path:
        return self.finetune / f"state-{step:07d}.safetensors"

    def preview(self, step: int) -> Path:
        return self.finetune / f"preview-{step:06d}.png"

    def final(self, trains: bool) -> Path:
        """The model folder that is sampled: the fine-tuned one where the run `trains`, else the pruned one."""
        return self.finetuned if trains else self.pruned

    def final_model(self) -> Path:
        """The model folder that the run ends with; UserError where it is not there yet."""
        if self.config.exists():
            trains = yaml.safe_load(self.config.read_text(encoding="utf-8"))["schedule"]["steps"] > 0
        else:
            trains = self.finetune.exists() or self.finetuned.exists()
        if not (final := self.final(trains)).exists():
            raise UserError(f"{self.folder} is not finished, it has no {final.name}/: repeat the run's command"
                            + (f", or give {self.pruned}" if self.pruned.exists() and trains else ""))
        return final

    def open(self, config: str) -> None:
        """Writes the run's `config` (YAML) where it is new, and deletes what a killed process left: half-written files, and
        training states of a fine-tuning that is over.
        """
        if not self.config.exists() or self.config.read_bytes() != config.encode():
            with atomic_file(self.config, checksum=True) as partial:
                partial.write_text(config)
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
        """Those of scoring, pruning and fine-tuning in this folder."""
        seconds = {"score": ScoreHeader.read(self.scores).seconds, "prune": read_json(self.prune_report)["seconds"]}
        if lines := ProgressLog.read(self.progress):
            seconds["finetune"] = lines[-1]["seconds"]
        return seconds
