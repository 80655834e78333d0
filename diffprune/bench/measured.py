"""The cases one after another, and what was measured of each: the lines of one table."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from diffprune.bench import cases, plain
from diffprune.bench.cases import BASELINE, SAME, SIDE
from diffprune.bench.setting import Setting
from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.diffusion.pixels import batches
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.pair_metrics import similarity
from diffprune.evaluation.speed import Timing, time_in_turn
from diffprune.runs.progress_log import ProgressLog

KEPT = (40, 22, 18, 10)     # timesteps: in the proportion of what T = 0, .01, .02, .05 keep of CIFAR-10's 1000
LATENCY_BATCHES = (1, 8, 64)
TOGETHER = "together"
PHOTOGRAPHS, WORKERS = 256, 2       # files that are loaded, and processes that read them

# Column, what a line calls it, and how it is written; a column without any value is left out.
COLUMNS = (("", "case", "{}"), ("way", "way", "{}"), ("seconds", "seconds", "{:.3g}"),
           ("speed-up", "times_as_fast", "{:.2f}"), ("MB above the start", "extra_mb", "{:,.0f}"),
           ("first call, seconds", "first_call", "{:.3g}"), ("pays from call", "pays_from", "{:,}"), ("", "note", "{}"))


@dataclass(frozen=True)
class Line:
    """One way of one case: median `seconds`, and the median over the rounds of the baseline's time divided by this one's.

    Of a compiled way `first_call` has the seconds of the first call, and `pays_from` the number of calls after which it has
    taken less time than the same way uncompiled. None where it does not apply.
    """
    case: str
    way: str
    seconds: float
    times_as_fast: float | None = None
    extra_mb: float | None = None
    note: str = ""
    first_call: float | None = None
    pays_from: int | None = None

    def record(self) -> dict[str, str | float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def lines(case: str, timings: dict[str, Timing], baseline: str, notes: dict[str, str] | None = None,
          times: float = 1) -> Iterator[Line]:
    """One line per way of `case`, compared with the `baseline`, whose measured work the whole case does `times`."""
    for way, timing in timings.items():
        scale = times if way == baseline else 1
        ratio = 1.0 if way == baseline else timing.speedup_over(timings[baseline]) * times
        first_call = pays_from = None
        if "compiled" in way:
            first_call, pays_from = timing.first, timing.pays_from(timings[way.replace("compiled", "channels_last")])
        note = (notes or {}).get(way, "")
        yield Line(case, way, timing.median * scale, ratio, timing.extra_mb, note, first_call, pays_from)


def rate(macs: int, timing: Timing) -> str:
    """Multiply-accumulates per second, to be compared with those of a large matrix product."""
    return f"{macs / timing.median / 1e9:.3g} GMAC/s"


def table(records: Sequence[dict[str, Any]], style: str = "simple") -> str:
    """One row per line's record, in one of tabulate's styles."""
    columns = [column for column in COLUMNS if any(record.get(column[1]) is not None for record in records)]
    rows = [[written.format(record[name]) if name in record else "" for _, name, written in columns] for record in records]
    return tabulate(rows, [head for head, _, _ in columns], style, disable_numparse=True,
                    colalign=["left" if written == "{}" else "right" for _, _, written in columns])


@dataclass(frozen=True)
class Bench:
    """Every case on one setting: `rounds` measurements of each way, `steps` of sampling, `images` for the network of
    `features`, whose `weights` are a file."""
    setting: Setting
    rounds: int
    steps: int
    images: int
    features: str
    weights: str | None = None

    def arithmetic(self) -> Iterator[Line]:
        for way, timing in self.timed(cases.arithmetic(self.setting), "arithmetic").items():
            yield Line(f"product of {SIDE} x {SIDE} matrices", way, timing.median, note=rate(SIDE ** 3, timing))

    def training(self) -> Iterator[Line]:
        batch = self.setting.batch
        timings = self.timed(cases.training(self.setting), "fine-tuning")
        macs = batch * self.setting.macs * EVALUATIONS_PER_STEP
        notes = {way: f"{batch / timing.median:.3g} images/s, {rate(macs, timing)}" for way, timing in timings.items()}
        yield from lines(f"fine-tuning step, batch {batch}", timings, BASELINE, notes)

    def overhead(self) -> Iterator[Line]:
        """Per step: a line of the log is written once in `log_every` steps, a state kept once in `save_every`."""
        every = self.setting.every
        with tempfile.TemporaryDirectory() as folder, ProgressLog(Path(folder, "progress.jsonl")) as log:
            timings = self.timed(cases.beside_a_step(self.setting, log), "beside a step")
        seconds = {way: timing.median / every.get(way, 1) for way, timing in timings.items()}
        step = seconds.pop("step")
        for way, taken in (seconds | {TOGETHER: sum(seconds.values())}).items():
            note = f"{100 * taken / step:.2f} % of a step" + (f", once in {every[way]}" if way in every else "")
            yield Line(f"beside a step, batch {self.setting.batch}", way, taken, note=note)

    def scoring(self) -> Iterator[Line]:
        timings = self.timed(cases.scoring(self.setting, KEPT), "scoring")
        yield from lines(f"scoring 3 criteria x {len(KEPT)} thresholds x 3 ratios", timings, BASELINE,
                         {BASELINE: f"{SAME} times the {len(KEPT)} cells that were timed"}, SAME)

    def sampling(self) -> Iterator[Line]:
        works, drawn = cases.sampling(self.setting, self.steps)
        timings = self.timed(works, "sampling")
        alike = {way: similarity(zip(batches(images, 64), batches(drawn[BASELINE], 64), strict=True),
                                 self.setting.ssim_window)["ssim"] for way, images in drawn.items()}
        macs = self.setting.batch * self.steps * self.setting.macs
        notes = {way: f"SSIM {ssim:.4f} to plain, {rate(macs, timings[way])}" for way, ssim in alike.items()}
        yield from lines(f"sampling {self.setting.batch} images, {self.steps} steps", timings, BASELINE, notes)

    def scores(self) -> Iterator[Line]:
        extractor = load_extractor(self.features, self.weights).to(self.setting.device)
        with tempfile.TemporaryDirectory() as folder:
            works = cases.scores(self.setting, extractor, self.weights, self.images, Path(folder))
            timings = self.timed(works, "evaluation")
        yield from lines(f"{extractor.name} features of {self.images} images", timings, BASELINE)

    def loading(self) -> Iterator[Line]:
        """Photographs from files: iterated with `datasets`, and as this project's training batches."""
        with tempfile.TemporaryDirectory() as name:
            plain.photographs(folder := Path(name), PHOTOGRAPHS)
            timings = self.timed({BASELINE: plain.datasets_pass(folder, WORKERS), "streamed": partial(
                plain.streamed_pass, folder, PHOTOGRAPHS, WORKERS)}, "loading")
        notes = {way: f"{PHOTOGRAPHS / timing.median:.3g} images/s" for way, timing in timings.items()}
        yield from lines(f"loading {PHOTOGRAPHS} files of 256 pixels, {WORKERS} processes", timings, BASELINE, notes)

    def latency(self) -> Iterator[Line]:
        for batch in LATENCY_BATCHES:
            timings = self.timed(cases.latency(self.setting, batch), f"latency, batch {batch}")
            notes = {way: f"{timing.speedup_over(timings[way.replace('pruned', 'dense')]):.2f} times as fast as dense; "
                          f"MACs ratio {self.setting.macs_ratio:.2f}"
                     for way, timing in timings.items() if way.startswith("pruned")}
            yield from lines(f"one evaluation, batch {batch}", timings, "dense, eager", notes)

    def timed(self, works: cases.Works, what: str) -> dict[str, Timing]:
        return time_in_turn(works, self.rounds, self.setting.device, what)


CASES = ("arithmetic", "training", "overhead", "scoring", "sampling", "scores", "loading", "latency")
