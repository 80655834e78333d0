"""The key of a model holds all that decides what it computes, and nothing that does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.latent import ClassEmbedder, Latent
from diffprune.models.identity import computation
from diffprune.models.model_folder import load_model, save_model
from diffprune.pruning.criteria import DiffPruning
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import score
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import Drawing, SamplerOptions
from tests.conftest import tiny_unet

CHANGES = {"norm_eps": 0.5, "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "act_fn": "relu",
           "attention_head_dim": 4, "resnet_time_scale_shift": "scale_shift", "mid_block_scale_factor": 2}


def unet(seed: int = 0, **changes) -> UNet2DModel:
    options = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (4, 8),
               "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
               "norm_num_groups": 2, "attention_head_dim": None} | changes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(**options).eval()


def model(schedule: dict | None = None, **changes) -> DiffusionModel:
    return DiffusionModel(unet(**changes), DDIMScheduler(**({"num_train_timesteps": 20} | (schedule or {}))))


def latent(scaling: float = 1.0, seed: int = 0, classes: bool = True) -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first_stage = VQModel(1, 1, block_out_channels=(4,), latent_channels=1, norm_num_groups=2, num_vq_embeddings=8,
                              scaling_factor=scaling)
        embedder = ClassEmbedder(3, 8) if classes else None
    return DiffusionModel(tiny_unet(), DDIMScheduler(), Latent(first_stage, embedder))


@pytest.mark.parametrize("name", CHANGES)
def test_with_the_same_weights_another_config_is_another_model(name: str) -> None:
    assert model().key == model().key != model(**{name: CHANGES[name]}).key


@pytest.mark.parametrize("change", [{"beta_end": 0.005}, {"beta_start": 1e-3}, {"beta_schedule": "scaled_linear"},
                                    {"num_train_timesteps": 40},
                                    {"set_alpha_to_one": False}, {"trained_betas": [0.1] * 20}])
def test_another_noise_schedule_is_another_model(change: dict) -> None:
    assert model().key != model(change).key


def test_weights_their_type_and_the_class_are_in_the_key() -> None:
    class Other(UNet2DModel):
        pass

    keys = [model().key, model(seed=1).key]
    half, other = model(), model()
    half.unet.half()
    other.unet.__class__ = Other
    assert len({*keys, half.key, other.key}) == 4


def test_the_heads_that_pruning_has_left_are_in_the_key() -> None:
    one, other = model(attention_head_dim=4), model(attention_head_dim=4)
    attention = other.unet.down_blocks[1].attentions[0]
    attention.heads = attention.heads // 2
    assert one.key != other.key


def test_every_network_around_the_noise_predictor_is_in_the_key() -> None:
    keys = [latent().key, latent(scaling=0.5).key, latent(seed=1).key, latent(classes=False).key]
    assert len(set(keys)) == 4
    assert latent().key == keys[0]


def test_saving_moving_and_the_scheduler_that_steps_leave_the_key(tmp_path: Path) -> None:
    one = model()
    save_model(one, tmp_path / "model")
    assert load_model(tmp_path / "model").key == one.key
    assert DiffusionModel(one.unet, DDPMScheduler(num_train_timesteps=20)).key == one.key
    key = one.key
    assert Execution(memory_format="channels_last").place(one).key == key


@pytest.mark.parametrize("changed", [
    {"precision": "bf16"}, {"memory_format": "channels_last"}, {"compile": "default"}, {"threads": 7}])
def test_how_a_network_is_evaluated_is_in_the_key(changed: dict) -> None:
    usual = {"device": torch.device("cpu"), "threads": 1}
    assert computation(**usual) == computation(**usual) != computation(**(usual | changed))


@pytest.mark.parametrize("change", [
    lambda patch: patch.setattr("diffprune.models.identity.CODE", 0), lambda patch: patch.setattr(torch, "__version__", "0"),
    lambda patch: patch.setattr("diffprune.models.identity.installed_versions", lambda libraries: {"numpy": "0"}),
    lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "none")],
    ids=["code", "torch", "libraries", "processor"])
def test_code_libraries_and_processor_are_in_the_key(change: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = computation(torch.device("cpu"))
    change(monkeypatch)
    assert computation(torch.device("cpu")) != usual


ARCHITECTURES = st.fixed_dictionaries({
    "seed": st.sampled_from([0, 1]), "norm_eps": st.sampled_from([1e-6, 0.5]), "freq_shift": st.sampled_from([0, 1]),
    "attention_head_dim": st.sampled_from([None, 4]), "schedule": st.sampled_from(
        [{}, {"beta_end": 0.5}, {"timestep_spacing": "trailing"}, {"clip_sample": False}])})
DRAWINGS = st.fixed_dictionaries({
    "batch": st.sampled_from([1, 3]), "steps": st.sampled_from([2, 3]), "eta": st.sampled_from([0.0, 1.0]),
    "clip": st.booleans(), "spacing": st.sampled_from(["uniform", "quad"]),
    "memory_format": st.sampled_from(["contiguous", "channels_last"]), "precision": st.sampled_from(["fp32", "bf16"])})


def drawn(one: DiffusionModel, batch: int, memory_format: str, precision: str, **options) -> tuple[dict, np.ndarray]:
    """The key of three images, and their bits."""
    execution = Execution(precision=precision, memory_format=memory_format)
    drawing = Drawing(3, SamplerOptions(**options), batch, execution)
    shards = [range(start, min(start + batch, 3)) for start in range(0, 3, batch)]
    return drawing.key(one), np.concatenate([draw(one, shard, drawing.options, execution) for shard in shards])


def scored(one: DiffusionModel) -> list[torch.Tensor]:
    batch = CalibrationBatch.with_noise(torch.linspace(-1, 1, 128).view(2, 1, 8, 8), seed=0)
    return [term for layers in score(one, DiffPruning(), batch).terms.values() for term in layers.values()]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_equal_keys_imply_equal_bits(data: st.DataObject) -> None:
    """Pairs that differ in one thing or in none; how the other scheduler would step does not decide anything here."""
    first, how = data.draw(ARCHITECTURES), data.draw(DRAWINGS)
    second, other_how = dict(first), dict(how)
    for options, other in ((first, second), (how, other_how)):
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(options)))
            other[name] = data.draw(ARCHITECTURES if options is first else DRAWINGS)[name]
    one, two = model(**first), model(**second)
    if one.key == two.key:
        assert all(map(torch.equal, scored(one), scored(two)))
    (key, images), (other_key, other_images) = drawn(one, **how), drawn(two, **other_how)
    assert key != other_key or np.array_equal(images, other_images)
