"""What is measured: each case gives ways of doing one thing, the baseline first."""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffprune.bench import plain
from diffprune.bench.setting import SEED, Setting
from diffprune.diffusion.pixels import batches, to_uint8
from diffprune.diffusion.process import SPACINGS, ddim
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.features.extractor import Extractor
from diffprune.evaluation.image_files import open_images
from diffprune.evaluation.speed import Work
from diffprune.models.device import Execution
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

BASELINE = "plain"
CRITERIA: tuple[Criterion, ...] = (DiffPruning(), FirstOrderTaylor(), SecondOrderTaylor())
RATIOS = (0.2, 0.3, 0.4)
SAME = len(CRITERIA) * len(RATIOS)      # cells of one threshold, for which the baseline makes the same scoring pass
FILES_BATCH = 50                        # images per evaluation of a feature network: pytorch-fid's own
SIDE = 2048                             # of the matrices whose product shows what the device can do


def arithmetic(setting: Setting) -> Works:
    """The product of two matrices [SIDE, SIDE] in each numeric format: hardly a convolution is done at a higher rate."""
    formats = {how.precision: torch.bfloat16 if how.precision == "bf16" else torch.float32
               for how in setting.executions.values()}
    return {name.replace("no", "fp32"): partial(torch.mm, *torch.randn(2, SIDE, SIDE, device=setting.device).to(dtype))
            for name, dtype in formats.items()}


def training(setting: Setting) -> Works:
    """One optimiser step of the dense model, in each numeric format that the device computes in."""
    images = setting.images(setting.batch)
    script = plain.PlainTraining(setting.copy_of(setting.dense).unet, setting.dense.alpha_bar, setting.recipe)
    works: Works = {BASELINE: lambda: script.step(images.to(setting.device))}
    for name, how in setting.executions.items():
        trainer = Trainer(setting.copy_of(setting.dense), setting.recipe, how, SEED)
        works[name] = partial(trainer.advance, images, None)
    return works


def beside_a_step(setting: Setting, log: ProgressLog) -> Works:
    """One step of fine-tuning, and what it does besides the network's and the optimiser's own work.

    The draws and the average are inside the step as well; a line of the log and a kept state come now and then.
    """
    images = setting.images(setting.batch)
    trainer = Trainer(setting.copy_of(setting.dense), setting.recipe, seed=SEED)
    return {"step": partial(trainer.advance, images, None),
            "draws": lambda: draw(SEED, trainer.step, setting.batch, setting.dense.shape, len(trainer.alpha_bar)),
            "average": lambda: ema.follow(trainer.ema, trainer.weights, 0.999),
            "log": lambda: (trainer.check(), log.write(trainer.step, trainer.mean_loss(), 0.0)),
            "state": lambda: write_state(log.path.with_name("state.safetensors"), *trainer.state())}


def scoring(setting: Setting, kept: Sequence[int]) -> Works:
    """Scores and cuts of a grid: 3 criteria x `kept` (how many timesteps each threshold keeps) x 3 ratios.

    The baseline makes a scoring pass for every cell. Its nine cells of one threshold take the same, so it does one of them.
    In the one shared pass as many timesteps are evaluated together as let each of `kept` end with an evaluation.
    """
    x_0, model = setting.images(setting.batch).to(setting.device), setting.copy_of(setting.dense)

    def script() -> None:
        for timesteps in kept:
            plain.plain_pass(model.unet, model.alpha_bar, x_0, timesteps)
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


def sampling(setting: Setting, steps: int) -> tuple[Works, dict[str, np.ndarray]]:
    """`batch` images of the dense model in `steps` steps, and what each way drew last, uint8 [N, H, W, C], once it ran."""
    model, x_T = setting.dense, setting.noise(setting.batch)
    timesteps = SPACINGS[setting.spacing](steps, len(model.alpha_bar))
    drawn: dict[str, np.ndarray] = {}

    def script() -> None:
        drawn[BASELINE] = to_uint8(plain.plain_samples(model.unet, model.alpha_bar, x_T, timesteps)).cpu().numpy()

    def drawing(name: str, evaluate: Callable) -> Work:
        def work() -> None:
            x_0 = ddim(evaluate, x_T, timesteps, model.alpha_bar)
            drawn[name] = to_uint8(x_0.float()).cpu().numpy()
        return work

    works = {name: drawing(name, evaluating(*way)) for name, way in setting.ways(model.unet).items()}
    return {BASELINE: script} | works, drawn


def evaluating(unet: Callable[..., Any], how: Execution) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(x_t, t) -> eps, without gradients."""
    def evaluate(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), how.autocast():
            return unet(x, t).sample
    return evaluate


def scores(setting: Setting, extractor: Extractor, weights: str | None, count: int, folder: Path) -> Works:
    """Features and statistics of `count` images: through PNG files, written and read back one by one; from the files of
    `folder`; from memory. The last two give all metrics' ingredients, not those of the Fréchet distance alone.

    Inception features are timed as pytorch-fid computes them too, with its own network and the same `weights`."""
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


def latency(setting: Setting, batch: int) -> Works:
    """One evaluation of the network on `batch` images: dense and pruned, in every way."""
    x_t, t = setting.noise(batch), torch.full((batch,), 500, device=setting.device)
    return {f"{which}, {way}": partial(evaluating(*how), x_t, t)
            for which, model in (("dense", setting.dense), ("pruned", setting.pruned))
            for way, how in setting.ways(model.unet).items()}
