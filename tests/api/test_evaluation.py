"""`diffprune.evaluate` on a model that one already holds."""

import copy

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

import diffprune
from diffprune.data import digits
from diffprune.data.loading.images import Images
from diffprune.evaluation.feature_statistics import FeatureStatistics
from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.set_metrics import fid
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions
from tests.api.test_pruning import callers_state, held_by_a_caller
from tests.conftest import tiny_unet

SCHEDULER, DATA = DDIMScheduler(num_train_timesteps=10), Images(digits.load(None, False).pixels[:40], flip=False)


def evaluated(held: object, **options) -> object:
    return diffprune.evaluate(held, **{"data": DATA, "images": 8, "steps": 2, "features": "digits-cnn"} | options)


def test_a_model_is_scored_as_a_runs_last_stage_does() -> None:
    unet = tiny_unet()
    result = evaluated(unet, scheduler=SCHEDULER, dense=copy.deepcopy(unet))
    extractor = load_extractor("digits-cnn", None)
    images = draw(DiffusionModel(unet, SCHEDULER), range(8), SamplerOptions(2))
    drawn = FeatureStatistics.of(extractor, [images], 8, 8, "drawn")
    data = FeatureStatistics.of(extractor, DATA.chunks(40), 40, 40, "data")
    assert result.scores["fid"] == pytest.approx(fid(drawn, data), rel=1e-6)
    assert result.scores["ssim"] == 1.0
    assert result.scores["rmse"] == 0.0
    assert result.params == sum(p.numel() for p in unet.parameters())
    assert {"steps": 2, "images": 8, "ssim_window": 7}.items() <= result.protocol.items()
    assert len(repr(result)) < 300


def test_without_the_dense_model_nothing_is_said_of_it() -> None:
    assert evaluated(DDIMPipeline(tiny_unet(), SCHEDULER)).scores["ssim"] is None


def test_the_callers_state_is_as_before() -> None:
    unet = held_by_a_caller()
    before, weights = callers_state(unet), copy.deepcopy(unet.state_dict())
    evaluated(unet, scheduler=SCHEDULER)
    assert callers_state(unet) == before
    unet.conv_out.bias.data[:] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluated(unet, scheduler=SCHEDULER)
    assert callers_state(unet) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items() if name != "conv_out.bias")


@pytest.mark.parametrize(("options", "message"), [
    ({"images": 1}, "at least 2"), ({"steps": None}, "either a number of steps or a sampler"),
    ({"steps": 11}, "steps=11 is outside 1 … 10"), ({"features": "resnet"}, "'resnet' are not known: choose one of digits"),
    ({"features": "cifar-cnn"}, "looks at images of shape"), ({"dense": tiny_unet(size=4)}, "the dense model draws"),
    ({"data": torch.zeros(4, 1, 4, 4)}, "shape"), ({"steps": None, "sampler": SamplerOptions(2, guidance=3.0)}, "guidance")])
def test_arguments_are_checked_before_an_image_is_drawn(options: dict, message: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffprune.api.evaluation.draw", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=message):
        evaluated(tiny_unet(), scheduler=SCHEDULER, **options)
