"""DDIM-format checkpoints: parity with the original code, every accepted layout, every refusal."""

import math

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch.nn import functional as F

from diffprune.models.formats.ddim import convert_ddim, infer_config, original_name
from diffprune.runtime.errors import UserError

CIFAR10, CELEBA, LSUN = ([1, 2, 2, 2], 1), ([1, 2, 2, 2, 4], 2), ([1, 1, 2, 2, 4, 4], 4)


def conv(name, out, into, kernel=3):
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name, into, out, temb):
    shapes = {**norm(f"{name}.norm1", into), **conv(f"{name}.conv1", out, into), **norm(f"{name}.norm2", out),
              **conv(f"{name}.conv2", out, out), **linear(f"{name}.temb_proj", out, temb)}
    return shapes if into == out else {**shapes, **conv(f"{name}.nin_shortcut", out, into, 1)}


def attn(name, width):
    projections = [conv(f"{name}.{leaf}", width, width, 1) for leaf in ("q", "k", "v", "proj_out")]
    return {key: shape for part in [norm(f"{name}.norm", width), *projections] for key, shape in part.items()}


def original_shapes(base=32, mult=(1, 2, 2, 2), layers=2, attention=(1,), channels=3):
    """Names and shapes of the original UNet, from its naming rule: `down.l` and `up.l` are stored by level."""
    temb, widths = 4 * base, [base * factor for factor in mult]
    shapes = {**linear("temb.dense.0", temb, base), **linear("temb.dense.1", temb, temb),
              **conv("conv_in", base, channels), **norm("norm_out", base), **conv("conv_out", channels, base)}
    skips, width = [base], base
    for level, out in enumerate(widths):
        for i in range(layers):
            shapes |= block(f"down.{level}.block.{i}", width, out, temb)
            shapes |= attn(f"down.{level}.attn.{i}", out) if level in attention else {}
            skips.append(width := out)
        if level < len(mult) - 1:
            shapes |= conv(f"down.{level}.downsample.conv", out, out)
            skips.append(out)
    shapes |= block("mid.block_1", width, width, temb) | attn("mid.attn_1", width)
    shapes |= block("mid.block_2", width, width, temb)
    for level, out in reversed(list(enumerate(widths))):
        for i in range(layers + 1):
            shapes |= block(f"up.{level}.block.{i}", width + skips.pop(), out, temb)
            shapes |= attn(f"up.{level}.attn.{i}", out) if level in attention else {}
            width = out
        shapes |= conv(f"up.{level}.upsample.conv", out, out) if level else {}
    return shapes


def random_state(shapes, seed=0):
    """Weights of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:])) if len(shape) > 1
            else float(key.endswith("weight")) + 0.1 * torch.randn(shape, generator=generator)
            for key, shape in shapes.items()}


class Original:
    """The original network's forward, on its own keys."""

    def __init__(self, state, levels, layers):
        self.state, self.levels, self.layers = state, levels, layers

    def layer(self, name):
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def norm(self, name, x):
        return F.group_norm(x, 32, *self.layer(name), eps=1e-6)

    def block(self, name, x, temb):
        h = F.conv2d(F.silu(self.norm(f"{name}.norm1", x)), *self.layer(f"{name}.conv1"), padding=1)
        h = h + F.linear(F.silu(temb), *self.layer(f"{name}.temb_proj"))[:, :, None, None]
        h = F.conv2d(F.silu(self.norm(f"{name}.norm2", h)), *self.layer(f"{name}.conv2"), padding=1)
        shortcut = f"{name}.nin_shortcut"
        return h + (F.conv2d(x, *self.layer(shortcut)) if f"{shortcut}.weight" in self.state else x)

    def attn(self, name, x):
        if f"{name}.norm.weight" not in self.state:
            return x
        q, k, v = (F.conv2d(self.norm(f"{name}.norm", x), *self.layer(f"{name}.{leaf}")).flatten(2) for leaf in "qkv")
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=2)
        h = (v @ weights.transpose(1, 2)).reshape(x.shape)
        return x + F.conv2d(h, *self.layer(f"{name}.proj_out"))

    def embed(self, t):
        half = self.state["temb.dense.0.weight"].shape[1] // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
        sinusoids = torch.cat([angles.sin(), angles.cos()], dim=1)
        return F.linear(F.silu(F.linear(sinusoids, *self.layer("temb.dense.0"))), *self.layer("temb.dense.1"))

    def __call__(self, x, t):
        temb = self.embed(t)
        skips = [F.conv2d(x, *self.layer("conv_in"), padding=1)]
        for level in range(self.levels):
            for i in range(self.layers):
                h = self.block(f"down.{level}.block.{i}", skips[-1], temb)
                skips.append(self.attn(f"down.{level}.attn.{i}", h))
            if level < self.levels - 1:
                padded = F.pad(skips[-1], (0, 1, 0, 1))
                skips.append(F.conv2d(padded, *self.layer(f"down.{level}.downsample.conv"), stride=2))
        h = self.attn("mid.attn_1", self.block("mid.block_1", skips[-1], temb))
        h = self.block("mid.block_2", h, temb)
        for level in reversed(range(self.levels)):
            for i in range(self.layers + 1):
                h = self.block(f"up.{level}.block.{i}", torch.cat([h, skips.pop()], dim=1), temb)
                h = self.attn(f"up.{level}.attn.{i}", h)
            if level:
                h = F.conv2d(F.interpolate(h, scale_factor=2), *self.layer(f"up.{level}.upsample.conv"), padding=1)
        return F.conv2d(F.silu(self.norm("norm_out", h)), *self.layer("conv_out"), padding=1)


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture
def state():
    return random_state(original_shapes(mult=(1, 2), layers=1))


@pytest.fixture
def tiny(oracle):
    return (convert_ddim(load_file(oracle / "ddim_tiny" / "model.safetensors"), 16),
            {key: value.float() for key, value in load_file(oracle / "ddim_tiny" / "expected.safetensors").items()
             if key in ("images", "noise", "loss_per_timestep", "x_T", "forward_t10")})


@torch.no_grad()
def test_the_output_is_the_original_codes(tiny):
    model, expected = tiny
    assert relative(model.unet(expected["x_T"], 10).sample, expected["forward_t10"]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 1, 10, 100, 500, 999])
def test_the_loss_at_a_timestep_is_the_original_codes(tiny, t):
    model, expected = tiny
    alpha_bar = model.scheduler.alphas_cumprod[t]
    x_t = alpha_bar.sqrt() * expected["images"] + (1 - alpha_bar).sqrt() * expected["noise"]
    loss = (expected["noise"] - model.unet(x_t, t).sample).square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(loss, expected["loss_per_timestep"][t], rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", [
    {"mult": (1, 2, 2, 2), "layers": 2, "attention": (1,)},
    {"mult": (1, 1, 2), "layers": 1, "attention": (0, 2)},
    {"mult": (1, 3), "layers": 3, "attention": (), "channels": 1},
], ids=["cifar10", "attention at both ends", "one channel, no attention but in the middle"])
def test_other_shapes_compute_what_the_original_network_does(shape):
    shapes = original_shapes(**shape)
    state = random_state(shapes)
    x = torch.randn(2, shape.get("channels", 3), 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 700])
    expected = Original(state, len(shape["mult"]), shape["layers"])(x, t)
    assert relative(convert_ddim(state, 16).unet(x, t).sample, expected) < 1e-5


@pytest.mark.parametrize(("model", "resolution", "params"), [
    (CIFAR10, 32, 35_746_307), (CELEBA, 64, 78_700_803), (LSUN, 256, 113_673_219)], ids=["cifar10", "celeba", "lsun"])
def test_the_papers_models_have_the_papers_sizes(model, resolution, params):
    mult, level = model
    shapes = original_shapes(base=128, mult=mult, attention=(level,))
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        unet = UNet2DModel(**infer_config(state, resolution))
    assert sum(math.prod(shape) for shape in shapes.values()) == params
    assert sum(parameter.numel() for parameter in unet.parameters()) == params
    assert {original_name(key, len(mult)) for key in unet.state_dict()} == set(shapes)


def test_the_scheduler_is_the_papers(state):
    config = convert_ddim(state, 16).scheduler.config
    assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (1000, 1e-4, 2e-2)
    assert (config.beta_schedule, config.prediction_type, config.timestep_spacing) == ("linear", "epsilon", "leading")
    assert (config.clip_sample, config.set_alpha_to_one) == (False, True)


def test_half_precision_is_read_as_float32(state):
    unet = convert_ddim({key: tensor.half() for key, tensor in state.items()}, 16).unet
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float32}


def test_prefixes_of_data_parallelism_go(state):
    unet = convert_ddim({f"module.{key}": tensor for key, tensor in state.items()}, 16).unet
    assert torch.equal(unet.conv_in.weight, state["conv_in.weight"])


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_a_training_checkpoint_gives_the_weights_asked_for(state, weights):
    ema = {key: tensor + 1 for key, tensor in state.items()}
    checkpoint = [{f"module.{key}": tensor for key, tensor in state.items()}, {"state": {}}, 3, 100, ema]
    expected = ema if weights == "ema" else state
    assert torch.equal(convert_ddim(checkpoint, 16, weights).unet.conv_in.weight, expected["conv_in.weight"])


def test_a_training_checkpoint_without_ema_needs_no_choice(state):
    assert torch.equal(convert_ddim([state, {}, 3, 100], 16).unet.conv_in.weight, state["conv_in.weight"])


def test_a_checkpoint_with_an_ema_asks_which_weights(state):
    with pytest.raises(UserError, match="--weights model or --weights ema"):
        convert_ddim([state, {}, 3, 100, state], 16)


@pytest.mark.parametrize("layout", ["dict", "list"])
def test_an_ema_that_is_not_there_is_refused(state, layout):
    with pytest.raises(UserError, match="no EMA"):
        convert_ddim(state if layout == "dict" else [state, {}, 3, 100], 16, "ema")


@pytest.mark.parametrize("checkpoint", [{}, [], [3], "text", None], ids=repr)
def test_what_holds_no_state_dict_is_refused(checkpoint):
    with pytest.raises(UserError, match="no state dict"):
        convert_ddim(checkpoint, 16)


def test_entries_that_are_no_tensors_are_named(state):
    with pytest.raises(UserError, match="no tensors: epoch"):
        convert_ddim({**state, "epoch": 3}, 16)


def test_the_resolution_has_to_be_said(state):
    with pytest.raises(UserError, match="--resolution"):
        convert_ddim(state, None)


@pytest.mark.parametrize("resolution", [0, -2, 17])
def test_a_resolution_that_the_levels_cannot_halve_is_refused(state, resolution):
    with pytest.raises(UserError, match=f"--resolution {resolution} does not fit its 2 levels, give a multiple of 2"):
        convert_ddim(state, resolution)


def test_all_keys_that_do_not_fit_are_listed(state):
    del state["mid.block_1.conv1.weight"]
    state["logits.weight"] = torch.zeros(3)
    state["norm_out.bias"] = torch.zeros(5)
    with pytest.raises(UserError) as error:
        convert_ddim(state, 16)
    assert str(error.value) == ("3 keys do not fit the architecture: mid.block_1.conv1.weight is missing; "
                                "logits.weight is unknown; norm_out.bias is [5] instead of [32]")


def test_a_long_list_ends_in_a_count(state):
    extra = {f"extra.{i}": torch.zeros(1) for i in range(25)}
    with pytest.raises(UserError, match=r"^25 keys .*extra\.9 is unknown; and 15 more$"):
        convert_ddim(state | extra, 16)


def test_attention_that_is_only_half_there_is_listed(state):
    del state["down.1.attn.0.q.weight"]
    with pytest.raises(UserError, match=r"down\.1\.attn\.0\.q\.weight is missing"):
        convert_ddim(state, 16)


def test_attention_projections_must_be_convolutions(state):
    state["mid.attn_1.q.weight"] = state["mid.attn_1.q.weight"][:, :, 0, 0]
    with pytest.raises(UserError, match=r"mid\.attn_1\.q\.weight is \[64, 64\] instead of \[64, 64, 1, 1\]"):
        convert_ddim(state, 16)


@pytest.mark.parametrize("key", ["conv_in.weight", "conv_out.weight", "down.1.block.0.conv1.weight"])
def test_a_key_that_tells_the_architecture_is_asked_for(state, key):
    del state[key]
    with pytest.raises(UserError, match=f"{key} is missing, from which the architecture is read"):
        convert_ddim(state, 16)


def test_another_network_is_refused(state):
    with pytest.raises(UserError, match="no UNet of the DDIM code base"):
        convert_ddim({"fc.weight": torch.zeros(2, 2)}, 16)


def test_a_convolution_of_another_rank_is_refused(state):
    state["conv_in.weight"] = torch.zeros(32, 3)
    with pytest.raises(UserError, match=r"conv_in\.weight is \[32, 3\] instead of a convolution's"):
        convert_ddim(state, 16)


def test_a_pruned_width_is_refused():
    with pytest.raises(UserError, match="a level is 33 channels wide"):
        convert_ddim(random_state(original_shapes(base=33, mult=(1, 2), layers=1)), 16)
