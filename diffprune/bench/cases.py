"""What is measured: each case gives ways of doing one thing, the baseline first."""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from diffprune.bench import plain
from diffprune.bench.clock import Work
from diffprune.bench.setting import Setting
from diffprune.diffusion.pixels import batches, to_uint8
from diffprune.diffusion.process import SPACINGS, ddim
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.features.extractor import Extractor
from diffprune.models.device import placed
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning.criteria import Criterion, DiffPruning, FirstOrderTaylor, SecondOrderTaylor
from diffprune.pruning.gradients import NOTHING, Calibration
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.surgery import asked, cut
from diffprune.training import ema
from diffprune.training.progress_log import Journal
from diffprune.training.state_files import write_state
from diffprune.training.trainer import Training, draw

Works = dict[str, Work]

BASELINE = "plain"
CRITERIA: tuple[Criterion, ...] = (DiffPruning(), FirstOrderTaylor(), SecondOrderTaylor())
RATIOS = (0.2, 0.3, 0.4)
SAME = len(CRITERIA) * len(RATIOS)      # cells of one threshold, which the baseline walks alike
FILES_BATCH = 50                        # images per evaluation of a feature network
SIDE = 2048                             # of the matrices whose product tells what the device can do


def arithmetic(setting: Setting) -> Works:
    """The product of two matrices [SIDE, SIDE] in each numeric format: hardly a convolution is done at a higher rate."""
    formats = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if setting.knows_bf16 else {})
    return {name: partial(torch.mm, *torch.randn(2, SIDE, SIDE, device=setting.device).to(dtype))
            for name, dtype in formats.items()}


def training(setting: Setting) -> Works:
    """One optimiser step of the dense model, in each numeric format that the device computes in."""
    images = setting.images(setting.batch)
    script = plain.PlainTraining(setting.copy_of(setting.dense).unet, setting.dense.alpha_bar, setting.cfg.schedule)
    works: Works = {BASELINE: lambda: script.step(images.to(setting.device))}
    formats = {"fp32": [], "fp32, channels_last": ["memory_format=channels_last"]}
    if setting.knows_bf16:
        formats["bf16, channels_last"] = ["memory_format=channels_last", "precision=bf16"]
    for name, options in formats.items():
        cfg = OmegaConf.merge(setting.cfg, OmegaConf.from_dotlist(options))
        works[name] = stepping(Training(placed(setting.copy_of(setting.dense), cfg), cfg), images)
    return works


def stepping(trained: Training, images: torch.Tensor) -> Work:
    trained.student.unet.train()
    return lambda: trained.advance(images, None)


def beside_a_step(setting: Setting, journal: Journal) -> Works:
    """One step of fine-tuning, and each thing that it does beside the network's and the optimiser's own work.

    The draws and the average are inside the step as well; a line of the journal and a kept state come now and then.
    """
    cfg, images = setting.cfg, setting.images(setting.batch)
    trained = Training(placed(setting.copy_of(setting.dense), cfg), cfg)
    return {"step": stepping(trained, images),
            "draws": lambda: draw(cfg.seed, trained.step, setting.batch, setting.dense.shape, len(trained.alpha_bar)),
            "average": lambda: ema.follow(trained.ema, trained.weights, 0.999),
            "log": lambda: (trained.check(), journal.write(trained.step, trained.mean_loss(), 0.0)),
            "state": lambda: write_state(journal.path.with_name("state.safetensors"), *trained.state())}


def scoring(setting: Setting, stops: Sequence[int]) -> Works:
    """Scores and cuts of a grid: 3 criteria x `stops` (how many timesteps each threshold keeps) x 3 ratios.

    The baseline walks anew for every cell. Its nine cells of one threshold take the same, so it does one of them. The one
    walk's passes hold as many timesteps as let each of `stops` end with a pass.
    """
    x_0, model = setting.images(setting.batch).to(setting.device), setting.copy_of(setting.dense)

    def script() -> None:
        for stop in stops:
            plain.plain_walk(model.unet, model.alpha_bar, x_0, stop)
            cells(setting, model, CRITERIA[:1], RATIOS[:1])

    def shared() -> None:
        calibration, total = Calibration(model, x_0, torch.randn_like(x_0), per_pass=math.gcd(*stops)), NOTHING
        for stop in sorted(stops):
            total = calibration.accumulate(torch.ones(stop), total)
            cells(setting, model, CRITERIA, RATIOS)

    return {BASELINE: script, "one walk": shared}


def cells(setting: Setting, model: DiffusionModel, criteria: Sequence[Criterion], ratios: Sequence[float]) -> None:
    """Cuts a copy of the model for every criterion and ratio, by the gradients that lie in it."""
    for criterion in criteria:
        terms = layer_terms(model.unet, criterion.terms)
        for ratio in ratios:
            cut(copy.deepcopy(model.unet), criterion, ratio, terms, **asked(setting.cfg))


def sampling(setting: Setting, steps: int) -> tuple[Works, dict[str, np.ndarray]]:
    """`batch` images of the dense model in `steps` steps, and what each way drew last, uint8 [N, H, W, C], once it ran."""
    model, x_T = setting.dense, setting.noise(setting.batch)
    timesteps = SPACINGS[setting.cfg.sampler.spacing](steps, len(model.alpha_bar))
    drawn: dict[str, np.ndarray] = {}

    def script() -> None:
        drawn[BASELINE] = to_uint8(plain.plain_samples(model.unet, model.alpha_bar, x_T, timesteps)).cpu().numpy()

    def drawing(name: str, evaluate: Callable) -> Work:
        def work() -> None:
            x_0 = ddim(evaluate, x_T, timesteps, model.alpha_bar)
            drawn[name] = to_uint8(x_0.float()).cpu().numpy()
        return work

    return {BASELINE: script} | {name: drawing(name, evaluating(setting, *how))
                                 for name, how in setting.ways(model.unet).items()}, drawn


def evaluating(setting: Setting, unet: nn.Module, precision: torch.dtype | None) -> Callable:
    """(x_t, t) -> eps, without gradients, under autocast where there is a `precision`."""
    def evaluate(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(setting.device.type, precision, enabled=precision is not None):
            return unet(x, t).sample
    return evaluate


def scores(setting: Setting, extractor: Extractor, count: int) -> Works:
    """Features and statistics of `count` images: through PNG files, and from memory."""
    images = to_uint8(setting.images(count)).numpy()

    def script() -> None:
        with tempfile.TemporaryDirectory() as folder:
            plain.plain_files(images, Path(folder))
            np.cov(plain.plain_features(extractor.network, Path(folder), FILES_BATCH), rowvar=False)

    def memory() -> None:
        FeatureStatistics.of(extractor, batches(images, FILES_BATCH), count, count, "images")

    return {BASELINE: script, "from memory": memory}


def latency(setting: Setting, batch: int) -> Works:
    """One evaluation of the network on `batch` images: dense and pruned, in every way."""
    x_t, t = setting.noise(batch), torch.full((batch,), 500, device=setting.device)
    return {f"{which}, {way}": partial(evaluating(setting, *how), x_t, t)
            for which, model in (("dense", setting.dense), ("pruned", setting.pruned))
            for way, how in setting.ways(model.unet).items()}
