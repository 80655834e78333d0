"""Class-conditional latent models: what is denoised, given which class, and the whole chain of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from PIL import Image

import diffprune
from diffprune.api.folders import load_pipeline
from diffprune.data import image_folder
from diffprune.data.loading.images import Images
from diffprune.diffusion.randomness import Stream, generator, noise_for
from diffprune.evaluation.held_out_loss import RANGES, held_out_loss, noised_timesteps
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families.latent import ClassEmbedder, Latent
from diffprune.models.identity import state_key
from diffprune.models.model_folder import load_model, pipeline_of, save_model
from diffprune.pruning.gradients import CalibrationBatch, ScoringPass
from diffprune.runtime.errors import UserError
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions
from diffprune.stages.options import load_dense
from diffprune.training.losses import Noised, squared_error
from diffprune.training.recipe import Recipe
from tests.conftest import ROOT, tiny_unet

CLASSES = 10


@pytest.fixture
def model() -> DiffusionModel:
    """8x8 grey images in latents of 4x4, ten classes and one for none."""
    torch.manual_seed(0)
    return DiffusionModel(
        UNet2DConditionModel(
            sample_size=4, in_channels=3, out_channels=3, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8, attention_head_dim=1, cross_attention_dim=16).eval(),
        DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
        Latent(
            VQModel(in_channels=1, out_channels=1, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                    norm_num_groups=4, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=32,
                    scaling_factor=0.5).eval().requires_grad_(False),
            ClassEmbedder(n_classes=CLASSES + 1, embed_dim=16).eval().requires_grad_(False)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirty grey images in ten sub-folders."""
    rng = np.random.default_rng(0)
    for i in range(30):
        folder = tmp_path / "images" / f"class_{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_a_pixel_models_latents_are_its_images() -> None:
    pixel, x = DiffusionModel(tiny_unet(), DDIMScheduler()), torch.randn(2, 1, 8, 8)
    assert pixel.to_latent(x) is x
    assert pixel.to_image(x) is x
    assert pixel.image_shape == pixel.shape == (1, 8, 8)
    assert pixel.context(torch.tensor([0, 1])) is pixel.labels_for(range(2)) is None


@torch.no_grad()
def test_latents_lie_on_the_scale_of_the_unet_and_come_back(model: DiffusionModel) -> None:
    x = torch.randn(2, 1, 8, 8).clamp(-1, 1)
    latents = model.to_latent(x)
    assert latents.shape == (2, *model.shape)
    torch.testing.assert_close(latents, model.family.vqvae.encode(x).latents * 0.5)
    torch.testing.assert_close(model.to_image(latents), model.family.vqvae(x).sample)
    assert model.image_shape == (1, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 3.0])
def test_guidance_is_the_pipelines(model: DiffusionModel, guidance: float | None) -> None:
    labels, x_t = torch.tensor([2, 7]), torch.randn(2, 3, 4, 4)
    t, pipeline = torch.tensor([5, 5]), pipeline_of(model)
    context_u = model.family.class_embedder(torch.tensor([CLASSES, CLASSES]))
    scale = 1.0 if guidance is None else guidance
    expected = pipeline.guided_noise(x_t, torch.full((len(x_t),), 5), context_u, model.context(labels), scale)
    torch.testing.assert_close(model.predictor(labels, guidance)(x_t, t), expected)


def test_images_are_drawn_of_every_class_in_turn(model: DiffusionModel) -> None:
    assert model.labels_for(range(8, 13)).tolist() == [8, 9, 0, 1, 2]
    options = SamplerOptions(2, guidance=2.0)
    together, alone = draw(model, range(4), options), draw(model, range(2, 4), options)
    assert together.shape == (4, 8, 8, 1)
    assert np.abs(together[2:].astype(int) - alone).max() <= 1


def test_drawing_is_the_saved_pipelines(model: DiffusionModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    pipeline, options = load_pipeline(tmp_path / "model"), SamplerOptions(4, guidance=2.0)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline([0, 1, 2], 4, guidance_scale=2.0, latents=noise_for(range(3), (3, 4, 4), 0), output_type="np").images
    assert np.abs(draw(model, range(3), options) / 255 - expected).max() < 0.01


def test_the_loss_is_given_the_classes(model: DiffusionModel) -> None:
    x_0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    contexts = [model.context(torch.tensor(labels)) for labels in ([1, 2], [3, 4])]
    batches = [CalibrationBatch(x_0, eps, context) for context in contexts]
    steps = [ScoringPass(model, batch).losses(torch.tensor([5, 9])) for batch in batches]
    assert not torch.allclose(*steps)
    torch.testing.assert_close(steps[0][1:], ScoringPass(model, batches[0]).losses(torch.tensor([9])))
    t = torch.tensor([5, 9])
    assert not torch.allclose(*(Noised(x_0, eps, t, model.process, context).predicted(model) for context in contexts))


def test_only_the_unet_gets_gradients(model: DiffusionModel) -> None:
    x_0 = model.to_latent(torch.randn(2, 1, 8, 8))
    t = torch.tensor([5, 9])
    noised = Noised(x_0, torch.randn_like(x_0), t, model.process, model.context(torch.tensor([1, 2])))
    squared_error(noised.predicted(model), noised.eps).sum().backward()
    assert model.unet.conv_in.weight.grad is not None
    assert all(p.grad is None for part in model.networks[1:] for p in part.parameters())


def test_images_without_classes_are_refused(model: DiffusionModel) -> None:
    with pytest.raises(UserError, match="one sub-folder of images per class"):
        model.context(None)


def test_a_class_that_the_model_does_not_know_is_refused(model: DiffusionModel) -> None:
    with pytest.raises(UserError, match=r"a class 10, the model knows 0 to 9"):
        model.context(torch.tensor([0, CLASSES]))
    with pytest.raises(UserError, match=r"a class -1, the model knows 0 to 9"):
        model.context(torch.tensor([0, -1]))


def test_class_names_that_are_not_as_many_as_the_models_are_refused(model: DiffusionModel) -> None:
    model.check_classes(torch.tensor([0, 1]), CLASSES)
    model.check_classes(torch.tensor([3, 7]), None)
    with pytest.raises(UserError, match=r"names 2 classes and the model has 10, so which ones these are cannot be known"):
        model.check_classes(torch.tensor([0, 1]), 2)


def test_a_conditional_model_without_class_embedding_is_refused(model: DiffusionModel, config, tmp_path: Path) -> None:
    model.family = Latent()
    folder = tmp_path / "text"
    model.unet.save_pretrained(folder / "unet")
    model.scheduler.save_pretrained(folder / "scheduler")
    with pytest.raises(UserError, match="conditional and has no class_embedder"):
        load_dense(config("model=diffusers", f"model.checkpoint={folder}", "dataset=image_folder", "dataset.path=.",
                          "dataset.channels=3", "dataset.resolution=4"))


@pytest.mark.parametrize(("part", "option"), [("vqvae", "latent_channels"), ("class_embedder", "embed_dim")])
def test_networks_of_different_models_are_refused(model: DiffusionModel, part: str, option: str) -> None:
    model.family.check(model.unet, "mixed")
    getattr(model.family, part).register_to_config(**{option: 7})
    with pytest.raises(UserError, match=f"the {part} of model=mixed does not fit its UNet"):
        model.family.check(model.unet, "mixed")


@torch.no_grad()
def test_an_unconditional_latent_model_is_a_model_too(config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vqvae = VQModel(in_channels=1, out_channels=1, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                    norm_num_groups=4, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=32).eval()
    save_model(DiffusionModel(tiny_unet(channels=3, size=4), DDIMScheduler(), Latent(vqvae)), tmp_path / "model")
    loaded = load_dense(config("model=diffusers", f"model.checkpoint={tmp_path / 'model'}"))
    assert draw(loaded, range(2), SamplerOptions(2)).shape == (2, 8, 8, 1)
    assert (tmp_path / "model" / "vqvae").is_dir()


def test_a_saved_latent_model_is_the_same_model(model: DiffusionModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.key == model.key
    assert loaded.key != DiffusionModel(loaded.unet, loaded.scheduler, Latent()).key
    assert not any(p.requires_grad for part in loaded.networks[1:] for p in part.parameters())


def test_classes_are_the_sorted_sub_folders(images: Path) -> None:
    loaded = image_folder.load(str(images), 8, 1, flip=False)
    assert loaded.labels.tolist() == [i // 3 for i in range(30)]
    (images / "loose.png").write_bytes((images / "class_0" / "0.png").read_bytes())
    assert image_folder.load(str(images), 8, 1, flip=False).labels is None


def test_a_batch_comes_with_its_classes() -> None:
    """Image i has the value and the class i."""
    images = Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), False, torch.arange(10))
    for batch, labels in images.batches(0, 4, 4, 3):
        assert torch.equal(((batch.flatten() + 1) * 127.5).round().long(), labels)
    values = ((images.calibration(5, 3).flatten() + 1) * 127.5).round().long()
    assert torch.equal(values, images.calibration_labels(5, 3))
    plain = Images(images.pixels, False)
    assert next(plain.batches(0, 1, 4, 3))[1] is plain.calibration_labels(4, 3) is None
    assert plain.key != images.key


def test_the_loss_on_held_out_images_is_that_of_latents_given_their_classes(model: DiffusionModel) -> None:
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(20) % CLASSES
    timesteps, ranges = noised_timesteps(1000, 20 * RANGES)
    places = (ranges == RANGES - 1).nonzero()[:, 0]
    with torch.no_grad():
        x_0, t = model.to_latent(pixels.float() / 127.5 - 1)[places % 20], timesteps[places]
        draws = [generator(0, Stream.HELD_OUT, int(place)) for place in places]
        eps = torch.stack([torch.randn(model.shape, generator=own) for own in draws])
        alpha_bar = model.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
        predicted = model.predict(x_t, t, model.context(classes[places % 20]))
    expected = (predicted - eps).square().sum((1, 2, 3)).mean()
    losses = held_out_loss(model, Images(pixels, False, classes), 256)
    assert losses[-1] == pytest.approx(float(expected), rel=1e-5)
    assert losses != held_out_loss(model, Images(pixels, False, classes.flip(0)), 256)
    with pytest.raises(UserError, match="class"):
        held_out_loss(model, Images(pixels, False), 256)


@pytest.mark.slow
def test_a_latent_model_goes_through_the_whole_chain(model: DiffusionModel, images: Path, tmp_path: Path) -> None:
    save_model(model, tmp_path / "dense")
    command = [sys.executable, "-m", "diffprune", f"paths.runs={tmp_path}/runs", f"paths.cache={tmp_path}/cache",
               "logger=none", "model=diffusers", f"model.checkpoint={tmp_path}/dense", "dataset=image_folder",
               f"dataset.path={images}", "dataset.channels=1", "dataset.resolution=8", "pruner.calibration_batch=8",
               "schedule=finetune_digits", "schedule.steps=4", "schedule.batch=8", "schedule.preview_every=2",
               "sampler.steps=3", "sampler.guidance=2.0", "evaluate=digits", "evaluate.images=20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env=os.environ | {"WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads(next((tmp_path / "runs").glob("*/*/metrics.json")).read_text())
    assert metrics["protocol"]["guidance"] == 2.0
    assert 0 < metrics["params"] < metrics["params_dense"]
    assert np.isfinite(metrics["fid"])
    assert metrics["ssim"] < 1
    final = load_model(next((tmp_path / "runs").glob("*/*/finetuned")))
    assert state_key(final.family.vqvae) == state_key(model.family.vqvae)
    assert state_key(final.family.class_embedder) == state_key(model.family.class_embedder)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "fine-tuning" not in again.stdout


def test_the_library_prunes_trains_and_scores_a_pipeline_of_classes(model: DiffusionModel, images: Path,
                                                                    tmp_path: Path) -> None:
    model.scheduler = DDIMScheduler.from_config(model.scheduler.config, num_train_timesteps=4)
    pipeline = pipeline_of(model)
    report = diffprune.prune(pipeline, 0.5, "taylor", images, calibration_batch=4, compensate=True, compensation_images=6)
    assert report.params < report.params_dense
    recipe = Recipe(1, batch=2)
    assert diffprune.finetune(pipeline, images, recipe=recipe).steps == 1
    result = diffprune.evaluate(pipeline, images, 11, 2, features="digits-cnn", dense=pipeline)
    assert result.scores["ssim"] == 1.0
    diffprune.save_pipeline(pipeline, tmp_path / "model")
    again = diffprune.load_pipeline(tmp_path / "model")
    assert all(torch.equal(tensor, again.unet.state_dict()[name]) for name, tensor in pipeline.unet.state_dict().items())
    with pytest.raises(ValueError, match="names none"):      # a batch has no classes
        diffprune.prune(pipeline, 0.5, "taylor", torch.zeros(2, 1, 8, 8))
