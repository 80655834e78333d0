"""CompVis checkpoints: parity with the original code, both config layouts, every accepted key, every refusal."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from diffprune.models.formats.compvis import build, convert_compvis, filled_classes, filled_first_stage, filled_unet
from diffprune.runtime.errors import UserError
from tests.models.test_formats_ddim import conv, linear, norm, random_state, relative

SMALL = {
    "unet_config": {
        "image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [2],
        "num_res_blocks": 1, "channel_mult": [1, 2], "num_heads": 1, "use_spatial_transformer": True,
        "transformer_depth": 1, "context_dim": 16,
    },
    "first_stage_config": {
        "double_z": False, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, "n_embed": 12, "embed_dim": 3,
    },
    "class_embedder": {"n_classes": 5, "embed_dim": 16},
}
IMAGENET = {
    "unet_config": {**SMALL["unet_config"], "image_size": 64, "model_channels": 192, "channel_mult": [1, 2, 3, 5],
                    "attention_resolutions": [8, 4, 2], "num_res_blocks": 2, "context_dim": 512},
    "first_stage_config": {**SMALL["first_stage_config"], "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2,
                           "resolution": 256, "n_embed": 8192},
    "class_embedder": {"n_classes": 1001, "embed_dim": 512},
}
BUFFERS = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
           "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
           "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
           "lvlb_weights", "logvar", "model_ema.decay", "model_ema.num_updates")
BETAS = torch.linspace(0.0015 ** 0.5, 0.0195 ** 0.5, 1000, dtype=torch.float64).square().float()


def original_yaml(config, **options):
    """`config` nested as the original YAML does it, with `options` of the whole model."""
    first_stage = dict(config["first_stage_config"])
    outer = {name: first_stage.pop(name) for name in ("embed_dim", "n_embed")}
    return {"model": {"base_learning_rate": 1e-4, "target": "LatentDiffusion", "params": {
        "linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "conditioning_key": "crossattn", **options,
        "unet_config": {"target": "UNetModel", "params": config["unet_config"]},
        "first_stage_config": {"target": "VQModelInterface", "params": {
            **outer, "ddconfig": first_stage, "lossconfig": {"target": "Identity"}}},
        "cond_stage_config": {"target": "ClassEmbedder", "params": {**config["class_embedder"], "key": "class_label"}},
    }}}


def changed(section, option, value):
    config = copy.deepcopy(SMALL)
    config[section][option] = value
    return config


def residual(name, into, out, temb):
    shapes = {**norm(f"{name}.in_layers.0", into), **conv(f"{name}.in_layers.2", out, into),
              **linear(f"{name}.emb_layers.1", out, temb),
              **norm(f"{name}.out_layers.0", out), **conv(f"{name}.out_layers.3", out, out)}
    return shapes if into == out else {**shapes, **conv(f"{name}.skip_connection", out, into, 1)}


def transformer(name, width, context):
    inner = f"{name}.transformer_blocks.0"
    shapes = {**norm(f"{name}.norm", width), **conv(f"{name}.proj_in", width, width, 1),
              **conv(f"{name}.proj_out", width, width, 1), **linear(f"{inner}.ff.net.0.proj", 8 * width, width),
              **linear(f"{inner}.ff.net.2", width, 4 * width)}
    for i in (1, 2, 3):
        shapes |= norm(f"{inner}.norm{i}", width)
    for i, source in ((1, width), (2, context)):
        shapes |= {f"{inner}.attn{i}.to_q.weight": (width, width), f"{inner}.attn{i}.to_k.weight": (width, source),
                   f"{inner}.attn{i}.to_v.weight": (width, source)}
        shapes |= linear(f"{inner}.attn{i}.to_out.0", width, width)
    return shapes


def original_unet(config):
    """Names and shapes of the original UNet: flat lists of blocks, each with its residual block, then a transformer
    where the factor of downsampling is listed, then a change of resolution at the end of a level."""
    base, layers, temb, context = config["model_channels"], config["num_res_blocks"], 4 * config["model_channels"], 512
    levels = [(2 ** level, factor * base) for level, factor in enumerate(config["channel_mult"])]
    shapes = {**linear("time_embed.0", temb, base), **linear("time_embed.2", temb, temb), **norm("out.0", base),
              **conv("input_blocks.0.0", base, 3), **conv("out.2", 3, base)}
    skips, width = [base], base
    for scale, out in levels:
        for _ in range(layers):
            shapes |= residual(f"input_blocks.{len(skips)}.0", width, out, temb)
            if scale in config["attention_resolutions"]:
                shapes |= transformer(f"input_blocks.{len(skips)}.1", out, context)
            skips.append(width := out)
        if scale < levels[-1][0]:
            shapes |= conv(f"input_blocks.{len(skips)}.0.op", width, width)
            skips.append(width)
    shapes |= residual("middle_block.0", width, width, temb) | transformer("middle_block.1", width, context)
    shapes |= residual("middle_block.2", width, width, temb)
    row = 0
    for scale, out in reversed(levels):
        for i in range(layers + 1):
            shapes |= residual(f"output_blocks.{row}.0", width + skips.pop(), out, temb)
            attention = scale in config["attention_resolutions"]
            shapes |= transformer(f"output_blocks.{row}.1", out, context) if attention else {}
            if scale > 1 and i == layers:
                shapes |= conv(f"output_blocks.{row}.{1 + attention}.conv", out, out)
            width, row = out, row + 1
    return {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()}


def shapes_of(model):
    modules = filled_unet(model.unet), filled_first_stage(model.family.vqvae), filled_classes(model.family.class_embedder)
    return {key: shape for module in modules for key, shape in module.shapes().items()}


@pytest.fixture(scope="module")
def small():
    return random_state(shapes_of(build(SMALL, None)))


def ema_of(state):
    """EMA keys as the original writes them, every value one more than the model's."""
    prefix = "model."
    shadows = {"model_ema." + key.removeprefix(prefix).replace(".", ""): tensor + 1
               for key, tensor in state.items() if key.startswith(prefix)}
    return {**shadows, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


@pytest.fixture
def tiny(oracle):
    folder = oracle / "ldm_tiny"
    model = convert_compvis(load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text()))
    return model, load_file(folder / "expected.safetensors")


@torch.no_grad()
def test_the_unets_output_is_the_original_codes(tiny):
    model, expected = tiny
    actual = model.unet(expected["x"].float(), expected["t"], encoder_hidden_states=expected["context"].float()).sample
    assert relative(actual, expected["unet_output"]) < 1e-4


@torch.no_grad()
def test_the_first_stages_images_and_latents_are_the_original_codes(tiny):
    model, expected = tiny
    assert relative(model.family.vqvae.decode(expected["latent"].float()).sample, expected["decoded"]) < 1e-4
    assert relative(model.family.vqvae.encode(expected["image"].float()).latents, expected["encoded"]) < 1e-4


@torch.no_grad()
def test_the_embedding_of_the_classes_is_the_original_codes(tiny):
    model, expected = tiny
    assert torch.equal(model.family.class_embedder(expected["class_labels"]), expected["context"].float())


def test_the_original_yamls_layout_means_the_same(small):
    flat, nested = convert_compvis(small, SMALL), convert_compvis(small, original_yaml(SMALL))
    assert dict(flat.unet.config) == dict(nested.unet.config)
    assert dict(flat.family.vqvae.config) == dict(nested.family.vqvae.config)
    assert dict(flat.scheduler.config) == dict(nested.scheduler.config)
    assert torch.equal(flat.family.class_embedder.embedding.weight, nested.family.class_embedder.embedding.weight)


def test_the_papers_model_has_the_papers_size_and_the_original_names():
    model = build(original_yaml(IMAGENET), None)
    assert sum(parameter.numel() for parameter in model.unet.parameters()) == 400_920_579
    assert filled_unet(model.unet).shapes() == original_unet(IMAGENET["unet_config"])
    assert model.family.class_embedder.unconditional == 1000
    assert model.family.vqvae.config.scaling_factor == 1


def test_an_upsampling_after_a_block_without_attention_is_found():
    sparse = {**IMAGENET["unet_config"], "attention_resolutions": [1, 4]}
    assert filled_unet(build({**IMAGENET, "unet_config": sparse}, None).unet).shapes() == original_unet(sparse)


def test_the_scheduler_is_the_papers(small):
    scheduler = convert_compvis(small, SMALL).scheduler
    torch.testing.assert_close(scheduler.betas, BETAS)
    assert (scheduler.config.clip_sample, scheduler.config.set_alpha_to_one) == (False, True)
    assert (scheduler.config.prediction_type, scheduler.config.timestep_spacing) == ("epsilon", "leading")


def test_a_wrapped_state_dict_is_unwrapped(small):
    model = convert_compvis({"state_dict": small, "epoch": 3, "callbacks": {}}, SMALL)
    assert torch.equal(model.family.class_embedder.embedding.weight, small["cond_stage_model.embedding.weight"])


def test_what_the_original_keeps_besides_is_ignored_by_name(small):
    besides = dict.fromkeys(BUFFERS, BETAS) | {
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2),
        "first_stage_model.loss.perceptual_loss.lin0.model.1.weight": torch.zeros(2)}
    model = convert_compvis(small | besides, SMALL)
    assert torch.equal(model.family.vqvae.quantize.embedding.weight, small["first_stage_model.quantize.embedding.weight"])


@pytest.mark.parametrize(("options", "buffer", "expected"), [
    ({}, {}, 1.0), ({"scale_factor": 0.5}, {}, 0.5),
    ({"scale_factor": 0.5}, {"scale_factor": torch.tensor(0.25)}, 0.25)], ids=["none", "config", "measured"])
def test_the_scale_of_the_latents_is_kept(small, options, buffer, expected):
    model = convert_compvis(small | buffer, original_yaml(SMALL, **options))
    assert model.family.vqvae.config.scaling_factor == expected


@pytest.mark.parametrize(("options", "expected"), [
    ({"num_heads": 2}, [2, 2]), ({"num_heads": 4}, [4, 4]), ({"num_head_channels": 16}, [2, 4]),
    ({"num_heads": 2, "num_head_channels": -1}, [2, 2])])
def test_heads_come_from_the_config(options, expected):
    config = {**SMALL, "unet_config": {**SMALL["unet_config"], "attention_resolutions": [1, 2], **options}}
    unet = build(config, None).unet
    assert [block.attentions[0].transformer_blocks[0].attn1.heads for block in unet.down_blocks] == expected


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_a_checkpoint_with_an_ema_gives_the_weights_asked_for(small, weights):
    model = convert_compvis(small | ema_of(small), SMALL, weights)
    expected = small["model.diffusion_model.out.2.weight"] + (weights == "ema")
    assert torch.equal(model.unet.conv_out.weight, expected)
    assert torch.equal(model.family.vqvae.quant_conv.weight, small["first_stage_model.quant_conv.weight"])


def test_a_checkpoint_with_an_ema_asks_which_weights(small):
    with pytest.raises(UserError, match="--weights model or --weights ema"):
        convert_compvis(small | ema_of(small), SMALL)


def test_an_ema_that_is_not_there_is_refused(small):
    with pytest.raises(UserError, match="no EMA"):
        convert_compvis(small, SMALL, "ema")


def test_an_ema_with_holes_is_refused_where_it_is_wanted(small):
    ema = ema_of(small)
    del ema["model_ema.diffusion_modelout2weight"]
    assert convert_compvis(small | ema, SMALL, "model")
    with pytest.raises(UserError, match=r"model_ema\.diffusion_modelout2weight is missing"):
        convert_compvis(small | ema, SMALL, "ema")


def test_an_unknown_key_of_the_ema_is_refused(small):
    with pytest.raises(UserError, match=r"model_ema\.other is unknown"):
        convert_compvis(small | ema_of(small) | {"model_ema.other": torch.zeros(1)}, SMALL, "model")


def test_the_keys_of_all_parts_that_do_not_fit_are_listed_together(small):
    state = {**small, "first_stage_model.extra": torch.zeros(1), "model.diffusion_model.out.2.bias": torch.zeros(9)}
    del state["cond_stage_model.embedding.weight"]
    with pytest.raises(UserError) as error:
        convert_compvis(state, SMALL)
    assert str(error.value) == (
        "3 keys do not fit the architecture: cond_stage_model.embedding.weight is missing; "
        "first_stage_model.extra is unknown; model.diffusion_model.out.2.bias is [9] instead of [3]")


def test_another_noise_schedule_than_the_configs_is_refused(small):
    with pytest.raises(UserError, match="noise schedule"):
        convert_compvis(small | {"betas": BETAS}, original_yaml(SMALL, linear_end=0.012))


@pytest.mark.parametrize(("config", "message"), [
    ({}, "no section unet_config"),
    ({"model": {}}, r"no section model\.params"),
    ({"model": {"params": {}}}, r"no section first_stage_config\.params"),
    ({**SMALL, "class_embedder": 3}, "no section class_embedder"),
    ({**SMALL, "class_embedder": {"n_classes": 5}}, r"no class_embedder\.embed_dim"),
    (changed("unet_config", "context_dim", 32), "context_dim is 32 and class_embedder.embed_dim 16"),
    (changed("unet_config", "use_scale_shift_norm", True), r"unet_config\.use_scale_shift_norm is True"),
    (changed("unet_config", "channel_mult", None), "no model that can be built"),
    (changed("unet_config", "model_channels", 33), "no model that can be built"),
    (changed("first_stage_config", "double_z", True), r"first_stage_config\.double_z is True"),
    (changed("first_stage_config", "attn_resolutions", [8]), r"first_stage_config\.attn_resolutions is \[8\]"),
    (original_yaml(SMALL, parameterization="x0"), r"the model\.parameterization is 'x0'"),
])
def test_a_config_that_does_not_serve_is_refused(small, config, message):
    with pytest.raises(UserError, match=message):
        convert_compvis(small, config)


@pytest.mark.parametrize("checkpoint", [{}, [], None, {"state_dict": {}}], ids=repr)
def test_what_holds_no_state_dict_is_refused(checkpoint):
    with pytest.raises(UserError, match="no state dict"):
        convert_compvis(checkpoint, SMALL)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, changed("unet_config", "num_heads", 4)], ids=["one head", "four heads"])
def test_a_converted_model_runs_from_noise_to_pixels(small, config):
    model = convert_compvis(small, config)
    latents = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    eps = model.unet(latents, 5, encoder_hidden_states=model.family.class_embedder(torch.tensor([0, 4]))).sample
    assert eps.shape == (2, 3, 8, 8)
    assert model.family.vqvae.decode(eps).sample.shape == (2, 3, 16, 16)
    assert math.isfinite(eps.sum())
