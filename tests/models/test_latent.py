"""Class-conditional sampling: guidance, the first stage, what is refused, and what a saved pipeline keeps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel, VQModel

from diffprune.models.families.latent import ClassConditionalLDMPipeline, ClassEmbedder


def tiny_pipeline(scaling_factor=1.0):
    torch.manual_seed(0)
    pipeline = ClassConditionalLDMPipeline(
        UNet2DConditionModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4, attention_head_dim=1, cross_attention_dim=8).eval(),
        VQModel(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=12, scaling_factor=scaling_factor).eval(),
        DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
        ClassEmbedder(n_classes=5, embed_dim=8))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def latents():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def sampled(pipeline, labels, latents, **options):
    return pipeline(labels, num_inference_steps=4, latents=latents, output_type="pt", **options).images


def test_the_embedding_of_a_label_is_one_token(pipeline):
    context = pipeline.class_embedder(torch.tensor([3, 1]))
    assert context.shape == (2, 1, 8)
    assert torch.equal(context[:, 0], pipeline.class_embedder.embedding.weight[[3, 1]])


@torch.no_grad()
def test_guidance_goes_from_the_unconditional_prediction_through_the_conditional_one(pipeline, latents):
    context_u, context_c = (pipeline.class_embedder(torch.tensor([label, label])) for label in (4, 2))
    eps_u, eps_c = (pipeline.unet(latents, 7, encoder_hidden_states=context).sample for context in (context_u, context_c))
    guided = pipeline.guided_noise(latents, torch.full((len(latents),), 7), context_u, context_c, 3.0)
    torch.testing.assert_close(guided, eps_u + 3.0 * (eps_c - eps_u))


def test_guidance_one_is_the_conditional_prediction_and_asks_the_network_once(pipeline, latents):
    calls = []
    pipeline.unet.forward = lambda x, t, encoder_hidden_states: calls.append(
        (len(x), encoder_hidden_states)) or SimpleNamespace(sample=x)
    context_u, context_c = torch.zeros(2, 1, 8), torch.ones(2, 1, 8)
    pipeline.guided_noise(latents, torch.full((len(latents),), 7), context_u, context_c, 1.0)
    assert [size for size, _ in calls] == [2]
    assert calls[0][1] is context_c


def test_the_last_class_is_the_unconditional_one(pipeline, latents):
    free = sampled(pipeline, [2, 3], latents, guidance_scale=0.0)
    torch.testing.assert_close(free, sampled(pipeline, [4, 4], latents, guidance_scale=1.0), atol=1e-5, rtol=0)


@torch.no_grad()
def test_sampling_is_ddim_then_the_first_stage(pipeline, latents):
    scheduler, labels = pipeline.scheduler, torch.tensor([0, 3])
    scheduler.set_timesteps(4)
    x_t = latents
    for t in scheduler.timesteps:
        eps_u, eps_c = (pipeline.unet(x_t, t, encoder_hidden_states=pipeline.class_embedder(classes)).sample
                        for classes in (torch.tensor([4, 4]), labels))
        x_t = scheduler.step(eps_u + 2.0 * (eps_c - eps_u), t, x_t).prev_sample
    expected = (pipeline.vqvae.decode(x_t).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(sampled(pipeline, labels, latents, guidance_scale=2.0), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_latents_are_decoded_on_the_first_stages_scale(latents):
    plain, scaled = tiny_pipeline(), tiny_pipeline(scaling_factor=0.5)
    torch.testing.assert_close(scaled.decode(latents), plain.decode(latents * 2))


def test_an_image_does_not_depend_on_its_batch(pipeline, latents):
    together = sampled(pipeline, [0, 3], latents)
    torch.testing.assert_close(sampled(pipeline, [3], latents[1:]), together[1:], atol=1e-4, rtol=0)


def test_a_seed_gives_the_same_images_again(pipeline):
    images = [sampled(pipeline, [0, 3], None, generator=torch.Generator().manual_seed(seed), eta=1.0) for seed in (5, 5, 6)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_images_come_as_asked_for(pipeline, latents):
    images = {kind: pipeline(0, num_inference_steps=2, latents=latents[:1], output_type=kind).images
              for kind in ("pil", "np", "pt")}
    assert images["pil"][0].size == (16, 16)
    assert images["np"].shape == (1, 16, 16, 3)
    np.testing.assert_allclose(images["pt"].permute(0, 2, 3, 1).numpy(), images["np"])
    assert images["pt"].min() >= 0
    assert images["pt"].max() <= 1


@pytest.mark.parametrize("label", [-1, 5])
def test_a_class_that_does_not_exist_is_refused(pipeline, label):
    with pytest.raises(ValueError, match=f"class {label} does not exist, choose from 0 to 4"):
        pipeline([0, label])


def test_latents_of_another_shape_are_refused(pipeline, latents):
    with pytest.raises(ValueError, match=r"latents are \[2, 3, 8, 8\], .* ask for \[3, 3, 8, 8\]"):
        pipeline([0, 1, 2], latents=latents)


def test_an_unknown_output_type_is_refused(pipeline):
    with pytest.raises(ValueError, match="output_type='jpg' is unknown"):
        pipeline([0], output_type="jpg")


def test_another_scheduler_of_diffusers_serves_but_not_with_eta(pipeline, latents):
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    assert sampled(pipeline, [0, 3], latents).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs a DDIM scheduler"):
        sampled(pipeline, [0, 3], latents, eta=0.5)


def test_a_saved_pipeline_draws_the_same_images(pipeline, latents, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = ClassConditionalLDMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert (tmp_path / "class_embedder" / "diffusion_pytorch_model.safetensors").exists()
    assert again.class_embedder.unconditional == 4
    torch.testing.assert_close(sampled(again, [0, 3], latents), sampled(pipeline, [0, 3], latents), atol=1e-5, rtol=0)
