"""Pruning a UNet: the selection rule holds in every group, the model runs, the report tells the truth."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffprune.api.pruning import prune
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning import criteria
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.selection import removal_count
from diffprune.pruning.surgery import cut, reinitialise
from tests.conftest import tiny_unet


def run(unet: torch.nn.Module) -> torch.Tensor:
    size = unet.config.sample_size
    return unet(torch.ones(2, unet.config.in_channels, size, size), torch.tensor([3, 900])).sample


CRITERIA = (criteria.Random, criteria.Magnitude, criteria.DiffPruning, criteria.FirstOrderTaylor,
            criteria.SecondOrderTaylor, criteria.TorchPruningTaylor)


def scored(unet: torch.nn.Module, seed: int) -> dict:
    """Every term, for gradients drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in unet.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    terms = layer_terms(unet, criteria.TERMS)
    unet.zero_grad()
    return terms


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.sampled_from([1, 2, 4, 8]), layers=st.integers(1, 2), ratio=st.floats(0, 0.95), attention=st.booleans(),
       criterion=st.sampled_from(CRITERIA), seed=st.integers(0, 9))
def test_any_small_unet_pruned_follows_the_rule_runs_and_outlasts_its_folder(
        groups: int, layers: int, ratio: float, attention: bool, criterion: type, seed: int) -> None:
    unet = tiny_unet(groups=groups, layers=layers, attention=attention, seed=seed)
    report = cut(unet, criterion(), Allocation(ratio), scored(unet, seed), seed)
    run(unet).sum().backward()
    for group in report.groups:
        blocks = group["norm_groups"]
        if group["removed"] or group["root"] not in {entry["layer"] for entry in report.skipped}:
            assert group["before"] - group["after"] == removal_count(group["before"], ratio) // blocks * blocks
        for layer in group["layers"]:
            assert report.layers[layer]["after"][0] == group["after"]
    assert report.params == sum(p.numel() for p in unet.parameters())
    assert report.layers["conv_out"]["after"][0] == unet.config.out_channels
    with TemporaryDirectory() as folder:
        save_model(DiffusionModel(unet, DDIMScheduler()), Path(folder) / "model")
        loaded = load_model(Path(folder) / "model").unet
    assert torch.equal(run(loaded), run(unet))


@pytest.mark.slow
def test_every_nominal_ratio_gives_another_digits_model() -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from diffprune.config.compose import register
    from tests.conftest import ROOT
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        options = compose("config").model.unet
    unet = instantiate(options, _convert_="all")
    params = [prune(copy.deepcopy(unet), r / 10, criteria.Magnitude()).params for r in range(9)]
    assert params == sorted(set(params), reverse=True)


def test_ratio_zero_changes_nothing() -> None:
    unet, dense = tiny_unet(), tiny_unet()
    report = prune(unet, 0.0, criteria.Magnitude())
    assert torch.equal(run(unet), run(dense))
    assert report.params == report.params_dense
    assert report.groups == []


def test_scores_are_lazy_later_groups_see_earlier_cuts() -> None:
    unet = tiny_unet((16, 32))
    seen: list[int] = []

    class Recording(criteria.Magnitude):
        def score(self, slices, channels, rng):
            seen.extend(s.terms["w2"].shape[1] for s in slices if not s.is_norm)
            return super().score(slices, channels, rng)

    dense = {size for m in unet.modules() if hasattr(m, "weight") and m.weight is not None for size in m.weight.shape}
    prune(unet, 0.5, Recording())
    assert 8 not in dense
    assert 8 in seen        # a width that only an earlier cut can have made


def test_channels_that_matter_less_go_first() -> None:
    unet = tiny_unet((16, 32))
    with torch.no_grad():
        for layer in (unet.down_blocks[0].resnets[0].conv1,):
            layer.weight[[1, 5, 9, 13]] *= 1e-3
        unet.down_blocks[0].resnets[0].conv2.weight[:, [1, 5, 9, 13]] *= 1e-3
        unet.down_blocks[0].resnets[0].time_emb_proj.weight[[1, 5, 9, 13]] *= 1e-3
    report = prune(unet, 0.25, criteria.Magnitude())
    removed = {g["root"]: g["removed"] for g in report.groups}
    groups = [removed[g["root"]] for g in report.groups if "down_blocks.0.resnets.0.conv1" in g["layers"]]
    assert groups == [[1, 5, 9, 13]]


def test_attention_scale_follows_the_width() -> None:
    from diffusers.models.attention_processor import Attention
    unet = tiny_unet()
    prune(unet, 0.5, criteria.Magnitude())
    for module in unet.modules():
        if isinstance(module, Attention):
            assert module.scale == pytest.approx(module.to_q.out_features ** -0.5)


def test_gradient_criteria_need_images_and_a_noise_schedule() -> None:
    with pytest.raises(ValueError, match="DiffPruning needs gradients"):
        prune(tiny_unet(), 0.3)


def test_diff_pruning_from_a_batch() -> None:
    unet = tiny_unet()
    report = prune(unet, 0.5, data=torch.rand(4, 1, 8, 8), scheduler=DDIMScheduler(num_train_timesteps=10))
    assert report.params < report.params_dense
    assert all(p.grad is None for p in unet.parameters())
    run(unet)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        prune(tiny_unet(), ratio, criteria.Random())


def test_what_is_not_cut_is_reported_with_its_reason() -> None:
    report = prune(tiny_unet((8, 16)), 0.3, criteria.Magnitude())
    reasons = {entry["layer"]: entry["reason"] for entry in report.skipped}
    assert "output head" in reasons.pop("conv_out")
    uncut = {g["root"] for g in report.groups if not g["removed"]}
    assert uncut == set(reasons)
    assert uncut


def test_pruning_twice_from_the_same_terms_gives_the_same_model() -> None:
    unet = tiny_unet()
    terms = layer_terms(unet, criteria.Magnitude.terms)
    first = cut(copy.deepcopy(unet), criteria.Magnitude(), Allocation(0.5), terms)
    second = cut(copy.deepcopy(unet), criteria.Magnitude(), Allocation(0.5), terms)
    assert first == second


def test_reinitialised_weights_are_fresh_and_seeded() -> None:
    unet, again = tiny_unet(), tiny_unet()
    before = unet.conv_in.weight.clone()
    reinitialise(unet, 0)
    reinitialise(again, 0)
    assert not torch.equal(unet.conv_in.weight, before)
    assert torch.equal(unet.conv_in.weight, again.conv_in.weight)
    reinitialise(again, 1)
    assert not torch.equal(unet.conv_in.weight, again.conv_in.weight)


@pytest.mark.slow
def test_pruned_models_are_not_kept_alive() -> None:
    import gc
    import weakref
    unet = tiny_unet()
    prune(unet, 0.5, criteria.Magnitude())
    alive = weakref.ref(unet)
    del unet
    gc.collect()
    assert alive() is None
