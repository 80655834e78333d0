"""The cases: ways of doing one thing, the baseline first, and the lines that say what was measured of each."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffprune.bench import plain
from diffprune.bench.measured import Line, lines, rate
from diffprune.bench.setting import SEED, Setting
from diffprune.config.schema import EVALUATIONS_PER_STEP
from diffprune.diffusion.pixels import batches, to_uint8
from diffprune.diffusion.process import SPACINGS, ddim
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.image_files import open_images
from diffprune.evaluation.pair_metrics import similarity
from diffprune.evaluation.speed import Timing, Work, time_in_turn
from diffprune.models.cost import measure
from diffprune.models.device import DTYPES, Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.criteria import Criterion, DiffPruning, FirstOrderTaylor, SecondOrderTaylor
from diffprune.pruning.gradients import EMPTY, CalibrationBatch, ScoringPass
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.surgery import cut
from diffprune.runs.progress_log import ProgressLog
from diffprune.training import ema
from diffprune.training.state_files import write_state
from diffprune.training.trainer import Trainer, draw

Works = dict[str, Work]

BASELINE, AGAINST, TOGETHER = "plain", "against", "together"
CRITERIA: tuple[Criterion, ...] = (DiffPruning(), FirstOrderTaylor(), SecondOrderTaylor())
RATIOS = (0.2, 0.3, 0.4)
SAME = len(CRITERIA) * len(RATIOS)      # cells of one threshold, for which the baseline makes the same scoring pass
FILES_BATCH = 50                        # images per evaluation of a feature network: pytorch-fid's own
SIDE = 2048                             # of the matrices whose product shows what the device can do
KEPT = (40, 22, 18, 10)     # timesteps: in the proportion of what T = 0, .01, .02, .05 keep of CIFAR-10's 1000
LATENCY_BATCHES = (1, 8, 64)
PHOTOGRAPHS, WORKERS = 256, 2           # files that are loaded, and processes that read them


def arithmetic_ways(setting: Setting) -> Works:
    """The product of two matrices [SIDE, SIDE] in each numeric format: hardly a convolution is done at a higher rate."""
    return {name: product(how) for name, how in setting.executions.items() if name == how.precision}


def product(how: Execution) -> Work:
    """The product of two random matrices [SIDE, SIDE] in the format of `how`."""
    a, b = torch.randn(2, SIDE, SIDE, device=how.device).to(DTYPES[how.precision] or torch.float32)

    def work() -> torch.Tensor:
        with how.rounding():
            return torch.mm(a, b)
    return work


def training_ways(setting: Setting) -> Works:
    """One optimiser step of the dense model, in each numeric format that the device computes in."""
    images = setting.images(setting.batch)
    script = plain.PlainTraining(setting.copy_of(setting.dense).unet, setting.dense.process, setting.recipe)
    works: Works = {BASELINE: lambda: script.step(images.to(setting.device))}
    if setting.against is not None:
        network = copy.deepcopy(setting.against).to(setting.device)
        other = plain.PlainTraining(network, setting.dense.process, setting.recipe)
        works = {AGAINST: lambda: other.step(images.to(setting.device))} | works
    for name, how in setting.executions.items():
        trainer = Trainer(setting.copy_of(setting.dense), setting.recipe, how, SEED)
        works[name] = partial(trainer.advance, images, None)
    return works


def scoring_ways(setting: Setting, kept: Sequence[int]) -> Works:
    """Scores and cuts of a grid: 3 criteria x `kept` (how many timesteps each threshold keeps) x 3 ratios. The baseline
    makes a scoring pass for every cell. Its nine cells of one threshold take the same, so it does one of them. In the one
    shared pass as many timesteps are evaluated together as let each of `kept` end with an evaluation."""
    x_0, model = setting.images(setting.batch).to(setting.device), setting.copy_of(setting.dense)

    def script() -> None:
        for timesteps in kept:
            plain.plain_pass(model.unet, model.process, x_0, timesteps)
            cells(setting, model, CRITERIA[:1], RATIOS[:1])

    def shared() -> None:
        batch = CalibrationBatch(x_0, torch.randn_like(x_0))
        scoring_pass, total = ScoringPass(model, batch, per_evaluation=math.gcd(*kept)), EMPTY
        for timesteps in sorted(kept):
            total = scoring_pass.accumulate(torch.ones(timesteps), total)
            cells(setting, model, CRITERIA, RATIOS)

    return {BASELINE: script, "one pass": shared}


def cells(setting: Setting, model: DiffusionModel, criteria: Sequence[Criterion], ratios: Sequence[float]) -> None:
    """Cuts a copy of the model for every criterion and ratio, by the gradients that lie in it."""
    for criterion in criteria:
        terms = layer_terms(model.unet, criterion.terms)
        for ratio in ratios:
            cut(copy.deepcopy(model.unet), criterion, replace(setting.allocation, ratio=ratio), terms)


def sampling_ways(setting: Setting, steps: int) -> tuple[Works, dict[str, np.ndarray]]:
    """`batch` images of the dense model in `steps` steps, and what each way drew last, uint8 [N, H, W, C], once it ran."""
    model, x_T = setting.dense, setting.noise(setting.batch)
    timesteps = SPACINGS[setting.spacing](steps, model.process.timesteps)
    drawn: dict[str, np.ndarray] = {}

    def keep(name: str, sample: Callable[[], torch.Tensor]) -> None:
        drawn[name] = to_uint8(sample().float()).cpu().numpy()

    script = partial(plain.plain_samples, model.unet, model.process, x_T, timesteps)
    works: Works = {name: partial(keep, name, partial(ddim, partial(evaluate, *way), x_T, timesteps, model.process))
                    for name, way in setting.ways(model).items()}
    works = {BASELINE: partial(keep, BASELINE, script)} | works
    if setting.against is not None:
        other = copy.deepcopy(setting.against).to(setting.device)
        works = {AGAINST: partial(plain.plain_samples, other, model.process, x_T, timesteps)} | works
    return works, drawn


def evaluate(unet: Callable[..., Any], how: Execution, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """eps, without gradients."""
    with torch.inference_mode(), how.autocast():
        return unet(x_t, t).sample


def score_ways(setting: Setting, extractor: Extractor, weights: str | None, count: int, folder: Path) -> Works:
    """Features and statistics of `count` images: through PNG files, written and read back one by one; from the files of
    `folder`; from memory. The last two give all metrics' ingredients, not those of the Fréchet distance alone. Inception
    features are timed as pytorch-fid computes them too, with its own network and the same `weights`."""
    images = to_uint8(setting.images(count)).numpy()
    plain.plain_files(images, folder)

    def script() -> None:
        with tempfile.TemporaryDirectory() as place:
            plain.plain_files(images, Path(place))
            np.cov(plain.plain_features(extractor.network, Path(place), FILES_BATCH), rowvar=False)

    def files() -> None:
        chunks = open_images(folder, images.shape[3]).chunks(FILES_BATCH)
        FeatureStatistics.of(extractor, chunks, count, count, "images")

    def memory() -> None:
        FeatureStatistics.of(extractor, batches(images, FILES_BATCH), count, count, "images")

    works: Works = {BASELINE: script, "from files": files, "from memory": memory}
    if extractor.name == "inception":
        works["pytorch-fid, from files"] = plain.pytorch_fid(folder, FILES_BATCH, weights, setting.device)
    return works


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

    @cached_property
    def products(self) -> dict[str, Timing]:
        """{numeric format: the time of a matrix product in it}."""
        return self.timed(arithmetic_ways(self.setting), "arithmetic")

    def rate(self, macs: int, timing: Timing, way: str) -> str:
        """Multiply-accumulates per second, and how much that is of what a matrix product reaches in the way's format."""
        format_ = next((name for name in self.products if name in way.split(", ")), "fp32")
        achieved = (macs / timing.median) / (SIDE ** 3 / self.products[format_].median)
        return f"{rate(macs, timing)}, {100 * achieved:.0f} % of a product's"

    @property
    def baseline(self) -> str:
        """The way that training, sampling and evaluations are compared with."""
        return BASELINE if self.setting.against is None else AGAINST

    def arithmetic(self) -> Iterator[Line]:
        for way, timing in self.products.items():
            yield Line(f"product of {SIDE} x {SIDE} matrices", way, timing.median, note=rate(SIDE ** 3, timing))

    def training(self) -> Iterator[Line]:
        batch = self.setting.batch
        timings = self.timed(training_ways(self.setting), "fine-tuning")
        macs = batch * self.setting.macs * EVALUATIONS_PER_STEP
        notes = {way: f"{batch / timing.median:.3g} images/s, {self.rate(macs, timing, way)}"
                 for way, timing in timings.items()}
        yield from lines(f"fine-tuning step, batch {batch}", timings, self.baseline, notes)

    def overhead(self) -> Iterator[Line]:
        """One step of fine-tuning, and what it does besides the network's and the optimiser's own work. The draws and the
        average are inside the step as well; a line of the log and a kept state come now and then."""
        setting, every, batch = self.setting, self.setting.every, self.setting.batch
        images, trainer = setting.images(batch), Trainer(setting.copy_of(setting.dense), setting.recipe, seed=SEED)
        with tempfile.TemporaryDirectory() as folder, ProgressLog(Path(folder, "progress.jsonl")) as log:
            works: Works = {
                "step": partial(trainer.advance, images, None),
                "draws": lambda: draw(SEED, trainer.step, batch, setting.dense.shape, trainer.process.timesteps),
                "average": lambda: ema.follow(trainer.ema, trainer.weights, 0.999),
                "log": lambda: (trainer.check(), log.write(trainer.step, trainer.mean_loss(), 0.0)),
                "state": lambda: write_state(log.path.with_name("state.safetensors"), *trainer.state())}
            timings = self.timed(works, "beside a step")
        seconds = {way: timing.median / every.get(way, 1) for way, timing in timings.items()}
        step = seconds.pop("step")
        for way, taken in (seconds | {TOGETHER: sum(seconds.values())}).items():
            note = f"{100 * taken / step:.2f} % of a step" + (f", once in {every[way]}" if way in every else "")
            yield Line(f"beside a step, batch {batch}", way, taken, note=note)

    def scoring(self) -> Iterator[Line]:
        timings = self.timed(scoring_ways(self.setting, KEPT), "scoring")
        yield from lines(f"scoring 3 criteria x {len(KEPT)} thresholds x 3 ratios", timings, BASELINE,
                         {BASELINE: f"{SAME} times the {len(KEPT)} cells that were timed"}, SAME)

    def sampling(self) -> Iterator[Line]:
        works, drawn = sampling_ways(self.setting, self.steps)
        timings = self.timed(works, "sampling")
        alike = {way: similarity(zip(batches(images, 64), batches(drawn[BASELINE], 64), strict=True),
                                 self.setting.ssim_window)["ssim"] for way, images in drawn.items()}
        macs = self.setting.batch * self.steps * self.setting.macs
        notes = {way: self.rate(macs, timing, way) for way, timing in timings.items()}
        notes |= {way: f"SSIM {ssim:.4f} to plain, {notes[way]}" for way, ssim in alike.items()}
        yield from lines(f"sampling {self.setting.batch} images, {self.steps} steps", timings, self.baseline, notes)

    def scores(self) -> Iterator[Line]:
        extractor = load_extractor(self.features, self.weights).to(self.setting.device)
        with tempfile.TemporaryDirectory() as folder:
            works = score_ways(self.setting, extractor, self.weights, self.images, Path(folder))
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
        """One evaluation of the network: dense and pruned, in every way."""
        setting, macs = self.setting, {"dense": self.setting.macs, "pruned": measure(self.setting.pruned.unet).macs}
        for batch in LATENCY_BATCHES:
            x_t, t = setting.noise(batch), torch.full((batch,), 500, device=setting.device)
            works: Works = {f"{name}, {way}": partial(evaluate, *how, x_t, t)
                            for name, model in (("dense", setting.dense), ("pruned", setting.pruned))
                            for way, how in setting.ways(model).items()}
            if setting.against is not None:
                other = copy.deepcopy(setting.against).to(setting.device).eval()
                works = {AGAINST: partial(evaluate, other, Execution(setting.device), x_t, t)} | works
            timings = self.timed(works, f"latency, batch {batch}")
            notes = {way: self.rate(batch * macs.get(way.partition(",")[0], setting.macs), timing, way)
                     for way, timing in timings.items()}
            notes |= {way: f"{timing.speedup_over(timings[way.replace('pruned', 'dense')]):.2f} times as fast as dense, "
                           f"MACs ratio {macs['dense'] / macs['pruned']:.2f}; {notes[way]}"
                      for way, timing in timings.items() if way.startswith("pruned")}
            yield from lines(f"one evaluation, batch {batch}", timings,
                             "dense, fp32" if setting.against is None else AGAINST, notes)

    def timed(self, works: Works, what: str) -> dict[str, Timing]:
        return time_in_turn(works, self.rounds, self.setting.device, what)


CASES = ("arithmetic", "training", "overhead", "scoring", "sampling", "scores", "loading", "latency")
