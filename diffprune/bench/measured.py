"""The cases one after another, and what came of each: lines of one table."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from diffprune.bench import cases
from diffprune.bench.cases import BASELINE, SAME
from diffprune.bench.clock import Timing, alternating
from diffprune.bench.setting import Setting
from diffprune.features.extractor import Extractor, batches
from diffprune.similarity import similarity

STOPS = (20, 11, 9, 5)      # in the proportion of what T = 0, .01, .02, .05 keep of CIFAR-10's 1000: 1000, 540, 433, 249
LATENCY_BATCHES = (1, 8, 64)


@dataclass(frozen=True)
class Line:
    """`seconds`: the median; `times_as_fast`: median over the rounds of the baseline's time through this one's."""
    case: str
    way: str
    seconds: float
    times_as_fast: float
    peak_mb: float
    note: str = ""

    def record(self) -> dict[str, str | float]:
        return asdict(self)


def lines(case: str, timings: dict[str, Timing], baseline: str, notes: dict[str, str] | None = None,
          times: float = 1) -> Iterator[Line]:
    """One line per way of `case`, beside the way called `baseline`, whose work `times` makes the whole."""
    for way, timing in timings.items():
        whole = times if way == baseline else 1
        ratio = 1.0 if way == baseline else timing.times_as_fast_as(timings[baseline]) * times
        yield Line(case, way, timing.median * whole, ratio, timing.peak_mb, (notes or {}).get(way, ""))


@dataclass(frozen=True)
class Bench:
    """Every case on one setting; `rounds` measurements of each way."""
    setting: Setting
    rounds: int
    steps: int
    images: int
    extractor: Callable[[], Extractor]

    def training(self) -> Iterator[Line]:
        batch = self.setting.batch
        timings = self.timed(cases.training(self.setting), "fine-tuning")
        yield from lines(f"fine-tuning step, batch {batch}", timings, BASELINE,
                         {way: f"{batch / timing.median:.3g} images/s" for way, timing in timings.items()})

    def scoring(self) -> Iterator[Line]:
        timings = self.timed(cases.scoring(self.setting, STOPS), "scoring")
        yield from lines(f"scoring 3 criteria x {len(STOPS)} thresholds x 3 ratios", timings, BASELINE,
                         {BASELINE: f"{SAME} times the {len(STOPS)} cells that were timed"}, SAME)

    def sampling(self) -> Iterator[Line]:
        works, drawn = cases.sampling(self.setting, self.steps)
        timings, window = self.timed(works, "sampling"), self.setting.cfg.evaluate.ssim_window
        alike = {way: similarity(zip(batches(images, 64), batches(drawn[BASELINE], 64), strict=True), window)["ssim"]
                 for way, images in drawn.items()}
        yield from lines(f"sampling {self.setting.batch} images, {self.steps} steps", timings, BASELINE,
                         {way: f"SSIM {ssim:.4f} to plain" for way, ssim in alike.items() if way != BASELINE})

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


CASES = ("training", "scoring", "sampling", "scores", "latency")
