"""Models of classes and prompts, of every family: tiny ones with random weights, built with diffusers' own classes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from torch import nn

import diffprune
from diffprune.data import captions, load_images
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import Ddpm, DiT, Latent, StableDiffusion, StableDiffusionXL
from diffprune.models.model_folder import load_model, save_model
from diffprune.pipeline import reproduce
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.sampling.draw import draw
from diffprune.sampling.protocol import SamplerOptions
from diffprune.stages.options import load_dense
from diffprune.training.trainer import left_out_of

CAPTIONS = ["a red bird", "two cats", "a blue car", "snow"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, object]:
    """A text encoder of random weights, and a tokenizer of single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(code) for code in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    torch.manual_seed(0)
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                           num_attention_heads=2, max_position_embeddings=16, projection_dim=16,
                                           bos_token_id=0, eos_token_id=1))
    return encoder.eval().requires_grad_(False), tokenizer


def first_stage() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                         up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=32).eval()


def stable_diffusion(clip: tuple, linear: bool = False, **scheduler) -> DiffusionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=2 if not linear else (2, 4), use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    encoder, tokenizer = clip
    process = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, **scheduler)
    return DiffusionModel(unet.eval(), process, StableDiffusion(
        vae=first_stage(), text_encoder=encoder, tokenizer=tokenizer))


def sdxl(clip: tuple) -> DiffusionModel:
    from transformers import CLIPTextModelWithProjection
    encoder, tokenizer = clip
    torch.manual_seed(0)
    second = CLIPTextModelWithProjection(encoder.config).eval().requires_grad_(False)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, norm_num_groups=4,
        attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    process = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return DiffusionModel(unet.eval(), process, StableDiffusionXL(
        vae=first_stage(), text_encoder=encoder, tokenizer=tokenizer, text_encoder_2=second, tokenizer_2=tokenizer))


def dit(**options) -> DiffusionModel:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2,
                                        sample_size=16, patch_size=2, num_embeds_ada_norm=4, **{"out_channels": 8} | options)
    return DiffusionModel(transformer.eval(), DDPMScheduler(variance_type="learned_range"), DiT(vae=first_stage()))


def unet_of_classes() -> DiffusionModel:
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=[32, 32], layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
                       num_class_embeds=4, down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                       attention_head_dim=None,
                       up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"))
    return DiffusionModel(unet.eval(), DDPMScheduler(), Ddpm())


def latent_kl() -> DiffusionModel:
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
                       norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                       up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None)
    return DiffusionModel(unet.eval(), FlowMatchEulerDiscreteScheduler(), Latent(vqvae=first_stage()))


FAMILIES: dict[str, Callable[[tuple], DiffusionModel]] = {
    "stable diffusion 1": stable_diffusion,
    "stable diffusion 2": lambda clip: stable_diffusion(clip, linear=True, prediction_type="v_prediction"),
    "stable diffusion XL": sdxl, "dit": lambda clip: dit(),
    "unet of classes": lambda clip: unet_of_classes(), "latents, flow": lambda clip: latent_kl()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 32 x 32 pixels with captions in metadata.jsonl, and beside it the same in folders of four classes."""
    folder = tmp_path_factory.mktemp("images")
    rng, lines = np.random.default_rng(0), []
    (folder / "captioned").mkdir()
    for i in range(24):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        image.save(folder / "captioned" / f"{i}.png")
        (folder / "classes" / str(i % 4)).mkdir(parents=True, exist_ok=True)
        image.save(folder / "classes" / str(i % 4) / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": CAPTIONS[i % 4]}))
    (folder / "captioned" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def data(name: str, images: Path) -> list[str]:
    guided = ["sampler.guidance=2", "schedule.unconditional=0.5", "dataset.resolution=32"]
    if name.startswith("stable"):
        return ["dataset=captions", f"dataset.path={images}/captioned", *guided]
    return ["dataset=image_folder", f"dataset.path={images}/classes", *(guided if name == "dit" else guided[2:])]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_through_the_whole_chain(name: str, clip: tuple, images: Path, tmp_path: Path, config) -> None:
    """Scored, pruned, compensated, fine-tuned, sampled, evaluated; loaded bit for bit; a diffusers pipeline."""
    save_model(FAMILIES[name](clip), tmp_path / "dense")
    cfg = config(*data(name, images), "model=diffusers", f"model.checkpoint={tmp_path}/dense", "pruner.ratio=0.5",
                 "pruner.calibration_batch=4", "pruner.compensate=ridge", "pruner.compensation_images=8", "schedule.steps=5",
                 "schedule.batch=4", "schedule.accumulate=1", "schedule.preview_every=0",
                 "sampler.steps=2", "sampler.processes=1", "evaluate=digits", "evaluate.images=8", "evaluate.speed=false",
                 "evaluate.features=cifar-cnn", "evaluate.before_healing=false", "dataset.held_out=4")
    run = Run(tmp_path / "run")
    reproduce(cfg, run)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert 0 < metrics["params"] < metrics["params_dense"]
    assert np.isfinite([metrics["fid"], metrics["ssim"], metrics["held_out_loss"]]).all()
    final = load_model(run.finetuned)
    save_model(final, tmp_path / "again")
    again = load_model(tmp_path / "again")
    assert all(torch.equal(tensor, again.unet.state_dict()[name]) for name, tensor in final.unet.state_dict().items())
    assert again.key == final.key
    pipeline = diffprune.load_pipeline(run.finetuned)
    asked = {"stable": {"prompt": CAPTIONS[:2]}, "dit": {"class_labels": [0, 1], "guidance_scale": 1}}
    asked = asked.get(name.split()[0], {"batch_size": 2})
    if name.split()[0] in ("stable", "dit"):       # diffusers has no pipeline of classes in pixels, nor of latents and flow
        assert np.isfinite(pipeline(**asked, num_inference_steps=2, output_type="np").images).all()


@pytest.mark.parametrize("name", ["stable diffusion 1", "stable diffusion 2", "stable diffusion XL"])
def test_image_i_is_that_of_caption_i_as_diffusers_draws_it(name: str, clip: tuple) -> None:
    model = FAMILIES[name](clip)
    model.family.prompts = CAPTIONS
    options = SamplerOptions(steps=3, guidance=3.0, scheduler={"_target_": "diffusers.DDIMScheduler"})
    images = draw(model, range(3), options)
    np.testing.assert_array_equal(draw(model, range(2, 3), options), images[2:])
    pipeline = model.family.pipeline(model.unet, model.scheduler)
    assert type(pipeline) is (StableDiffusionXLPipeline if name.endswith("XL") else StableDiffusionPipeline)
    from diffprune.diffusion.randomness import noise_for
    theirs = pipeline(CAPTIONS[:3], latents=noise_for(range(3), model.shape, 0), num_inference_steps=3, guidance_scale=3.0,
                      output_type="np").images
    np.testing.assert_allclose(theirs * 255, images, atol=0.51)


def test_another_caption_is_another_model(clip: tuple) -> None:
    model, keys = stable_diffusion(clip), []
    for prompts in (CAPTIONS, CAPTIONS[:3], [*CAPTIONS[:3], "rain"]):
        model.family.prompts = prompts
        keys.append(model.key)
    assert len(set(keys)) == 3


def test_captions_come_from_a_listing_from_text_files_or_from_a_table(images: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    folder = images / "captioned"
    files = sorted(folder.glob("*.png"))
    captions = [CAPTIONS[int(file.stem) % 4] for file in files]
    (tmp_path / "texts").mkdir()
    for file, caption in zip(files, captions, strict=True):
        (tmp_path / "texts" / file.name).write_bytes(file.read_bytes())
        (tmp_path / "texts" / f"{file.stem}.txt").write_text(f"{caption}\n")
    (tmp_path / "table").mkdir()
    parquet.write_table(pa.table({"image": [{"bytes": file.read_bytes(), "path": None} for file in files],
                                  "caption": captions}), tmp_path / "table" / "train-00000-of-00001.parquet")
    options = {"_target_": "diffprune.data.captions.load", "resolution": 16, "channels": 3, "flip": False}
    for path, caption in ((folder, "text"), (tmp_path / "texts", "text"), (tmp_path / "table", "caption")):
        loaded = load_images(options | {"path": str(path), "caption": caption})
        assert list(loaded.captions) == captions
        assert loaded.labels.tolist() == list(range(24))
    keys = {load_images(options | {"path": str(folder), "caption": name}).key for name in ("text", "file_name")}
    assert len(keys) == 2       # other captions are another data set
    with pytest.raises(UserError, match=r"has no column text: give dataset\.caption=<one of image, caption>"):
        load_images(options | {"path": str(tmp_path / "table"), "caption": "text"})
    with pytest.raises(UserError, match=r"cannot be used.*name of the field with dataset\.caption"):
        load_images(options | {"path": str(folder), "caption": "title"})
    (tmp_path / "texts" / "3.txt").unlink()
    with pytest.raises(UserError, match=r"3\.txt with the caption of 3\.png cannot be read"):
        load_images(options | {"path": str(tmp_path / "texts"), "caption": "text"})
    (tmp_path / "texts" / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "one"}\n')
    with pytest.raises(UserError, match=r"has no line for 0\.png \(23 of 24 images lack one\)"):
        load_images(options | {"path": str(tmp_path / "texts"), "caption": "text"})


def test_a_model_of_prompts_needs_captions_and_a_model_of_classes_needs_classes(clip: tuple, images: Path, tmp_path: Path,
                                                                                config) -> None:
    save_model(stable_diffusion(clip), tmp_path / "text")
    options = ["model=diffusers", "dataset=image_folder", f"dataset.path={images}/captioned", "dataset.resolution=32",
               "evaluate.features=cifar-cnn"]
    with pytest.raises(UserError, match="draws what captions say and the data set has none: choose dataset=captions"):
        reproduce(config(*options, f"model.checkpoint={tmp_path}/text", "pruner.calibration_batch=4"), Run(tmp_path / "run"))
    save_model(unet_of_classes(), tmp_path / "classes")
    with pytest.raises(UserError, match=r"sampler\.guidance=2\.0 needs a model of classes or prompts"):
        load_dense(config(*options, f"model.checkpoint={tmp_path}/classes", "sampler.guidance=2.0"))
    with pytest.raises(UserError, match=r"schedule\.unconditional=0\.1 needs a model of classes or prompts"):
        load_dense(config(*options, f"model.checkpoint={tmp_path}/classes", "schedule.unconditional=0.1"))


def test_captions_are_left_out_by_the_draws_of_the_step(clip: tuple) -> None:
    left_out = left_out_of(0, 3, 200, 0.3)
    assert 0.15 < float(left_out.float().mean()) < 0.45
    assert torch.equal(left_out, left_out_of(0, 3, 200, 0.3))
    assert not torch.equal(left_out, left_out_of(0, 4, 200, 0.3))
    assert left_out_of(0, 3, 200, 0.0) is None
    model = stable_diffusion(clip)
    model.family.prompts = CAPTIONS
    labels = torch.arange(4)
    shown = model.context(labels, torch.tensor([False, True, False, True]))
    assert torch.equal(shown[0], model.context(labels)[0])
    assert torch.equal(shown[1], model.family.embedded([""])[0])


def test_a_damaged_text_encoder_is_refused_by_its_folder(clip: tuple, tmp_path: Path) -> None:
    save_model(stable_diffusion(clip), tmp_path / "model")
    (tmp_path / "model" / "checksums.sha256").unlink()
    (tmp_path / "model" / "text_encoder" / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(UserError, match=r"no CLIPTextModel can be read from .*text_encoder"):
        load_model(tmp_path / "model")


def test_an_incomplete_folder_is_refused(clip: tuple, tmp_path: Path, config) -> None:
    with pytest.raises(UserError, match=r"the model has no vae: give model\.checkpoint"):
        load_dense(config("model=stable_diffusion", "model.checkpoint=null", "dataset=digits",
                          "+model.unet.block_out_channels=[32,32,32,32]", "+model.unet.norm_num_groups=4"))


def test_a_pipeline_is_pruned_on_captioned_images(clip: tuple, images: Path) -> None:
    model = stable_diffusion(clip)
    pipeline = model.family.pipeline(model.unet, model.scheduler)
    captioned = captions.load(str(images / "captioned"), 32, 3, False)
    report = diffprune.prune(pipeline, ratio=0.5, criterion="taylor", data=captioned, calibration_batch=4, compensate=True,
                             compensation_images=8)
    assert report.params < report.params_dense
    assert np.isfinite(pipeline(CAPTIONS[:1], num_inference_steps=2, output_type="np").images).all()
    with pytest.raises(ValueError, match="the data set has none"):
        diffprune.prune(pipeline, ratio=0.5, criterion="taylor", data=str(images / "classes"), calibration_batch=4)
