"""The cases one after another, and what came of each: lines of one table."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from diffprune.bench import cases
from diffprune.bench.cases import BASELINE, SAME, SIDE
from diffprune.bench.clock import Timing, alternating
from diffprune.bench.setting import Setting
from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.diffusion.pixels import batches
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.pair_metrics import similarity
from diffprune.tracking.tracker import Tracker
from diffprune.training.progress_log import Journal

STOPS = (40, 22, 18, 10)    # in the proportion of what T = 0, .01, .02, .05 keep of CIFAR-10's 1000: 1000, 540, 433, 249
LATENCY_BATCHES = (1, 8, 64)
TOGETHER = "together"


@dataclass(frozen=True)
class Line:
    """`seconds`: the median; `times_as_fast`: median over the rounds of the baseline's time through this one's.

    Of a compiled way `first_call` has the seconds of the first, and `pays_from` the number of calls from which on it was
    quicker than the same way uncompiled. None: there is nothing to say.
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
    """One line per way of `case`, beside the way called `baseline`, whose work `times` makes the whole."""
    for way, timing in timings.items():
        whole = times if way == baseline else 1
        ratio = 1.0 if way == baseline else timing.times_as_fast_as(timings[baseline]) * times
        compiling = {}
        if "compiled" in way:
            uncompiled = timings[way.replace("compiled", "channels_last")]
            compiling = {"first_call": timing.first, "pays_from": timing.pays_from(uncompiled)}
        yield Line(case, way, timing.median * whole, ratio, timing.extra_mb, (notes or {}).get(way, ""), **compiling)


def rate(macs: int, timing: Timing) -> str:
    """Multiply-accumulates per second, to be held against those of a large matrix product."""
    return f"{macs / timing.median / 1e9:.3g} GMAC/s"


@dataclass(frozen=True)
class Bench:
    """Every case on one setting; `rounds` measurements of each way."""
    setting: Setting
    rounds: int
    steps: int
    images: int
    extractor: Callable[[], Extractor]

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
        """Per step: a line of the journal is written once in `log_every`, a state kept once in `save_every` steps."""
        recipe = self.setting.cfg.schedule
        every = {"log": recipe.log_every, "state": recipe.save_every}
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder, "progress.jsonl"), 0, Tracker()) as journal:
            timings = self.timed(cases.beside_a_step(self.setting, journal), "beside a step")
        seconds = {way: timing.median / every.get(way, 1) for way, timing in timings.items()}
        step = seconds.pop("step")
        for way, taken in (seconds | {TOGETHER: sum(seconds.values())}).items():
            note = f"{100 * taken / step:.2f} % of a step" + (f", once in {every[way]}" if way in every else "")
            yield Line(f"beside a step, batch {self.setting.batch}", way, taken, note=note)

    def scoring(self) -> Iterator[Line]:
        timings = self.timed(cases.scoring(self.setting, STOPS), "scoring")
        yield from lines(f"scoring 3 criteria x {len(STOPS)} thresholds x 3 ratios", timings, BASELINE,
                         {BASELINE: f"{SAME} times the {len(STOPS)} cells that were timed"}, SAME)

    def sampling(self) -> Iterator[Line]:
        works, drawn = cases.sampling(self.setting, self.steps)
        timings, window = self.timed(works, "sampling"), self.setting.cfg.evaluate.ssim_window
        alike = {way: similarity(zip(batches(images, 64), batches(drawn[BASELINE], 64), strict=True), window)["ssim"]
                 for way, images in drawn.items()}
        macs = self.setting.batch * self.steps * self.setting.macs
        notes = {way: f"SSIM {ssim:.4f} to plain, {rate(macs, timings[way])}" for way, ssim in alike.items()}
        yield from lines(f"sampling {self.setting.batch} images, {self.steps} steps", timings, BASELINE, notes)

    def scores(self) -> Iterator[Line]:
        extractor = self.extractor().to(self.setting.device)
        timings = self.timed(cases.scores(self.setting, extractor, self.images), "evaluation")
        yield from lines(f"{extractor.name} features of {self.images} images", timings, BASELINE)

    def latency(self) -> Iterator[Line]:
        for batch in LATENCY_BATCHES:
            timings = self.timed(cases.latency(self.setting, batch), f"latency, batch {batch}")
            notes = {way: f"{timing.times_as_fast_as(timings[way.replace('pruned', 'dense')]):.2f} times as fast as dense; "
                          f"MACs ratio {self.setting.macs_ratio:.2f}"
                     for way, timing in timings.items() if way.startswith("pruned")}
            yield from lines(f"one evaluation, batch {batch}", timings, "dense, eager", notes)

    def timed(self, works: cases.Works, what: str) -> dict[str, Timing]:
        return alternating(works, self.rounds, self.setting.device, what)


CASES = ("arithmetic", "training", "overhead", "scoring", "sampling", "scores", "latency")
