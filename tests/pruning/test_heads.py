"""Attention with several heads, gated feed-forwards and transformers: what is left computes what it did before."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffprune.api.folders import load_pipeline
from diffprune.api.pruning import prune
from diffprune.config.naming import run_folder, run_name
from diffprune.models.cost import example_inputs
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.families import DiT
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.pruned_network import synchronise
from diffprune.pipeline import reproduce
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.criteria import Magnitude, Random
from diffprune.pruning.dependency import Graph
from diffprune.pruning.importance import layer_terms
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import PaperSelection, TorchPruningSelection, removal_count
from diffprune.pruning.surgery import cut, cut_group, fixed_layers
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from tests.conftest import tiny_unet
from tests.models.test_model_folder import digests

WIDTHS = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}


def seeded(build: Callable[..., nn.Module], **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(**options).eval()
    for module in model.modules():      # attention that depends on what it attends to
        if isinstance(module, Attention):
            module.to_q.weight.data *= 8
    return model


def headed_unet(head_dim: int = 8, **options) -> nn.Module:
    """A UNet2DModel with 32 / head_dim heads."""
    return seeded(UNet2DModel, in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                  up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=head_dim, **WIDTHS | options)


def stable_diffusion(linear: bool = False) -> nn.Module:
    """Stable Diffusion's shape: cross-attention, gated feed-forwards. (`attention_head_dim` is a number of heads there.)"""
    return seeded(UNet2DConditionModel, in_channels=4, out_channels=4, cross_attention_dim=12, attention_head_dim=4,
                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), use_linear_projection=linear,
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **WIDTHS)


def dit(channels: int = 3) -> nn.Module:
    """A transformer of 4 heads that predicts a variance too."""
    return seeded(DiTTransformer2DModel, num_attention_heads=4, attention_head_dim=8, in_channels=channels, num_layers=2,
                  out_channels=2 * channels, sample_size=8, num_embeds_ada_norm=10, norm_num_groups=4)


MODELS = {"unet": headed_unet, "conv_projection": stable_diffusion, "linear_projection": lambda: stable_diffusion(True),
          "dit": dit}


def run(model: nn.Module) -> Tensor:
    """The output for a fixed batch of two."""
    dtype, rng = next(model.parameters()).dtype, torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(2, *value.shape[1:], generator=rng).to(dtype) if value.is_floating_point() else
              torch.tensor([3, 7]) for name, value in example_inputs(model).items()}
    if "encoder_hidden_states" in inputs:
        inputs["encoder_hidden_states"] = torch.randn(2, 5, model.config.cross_attention_dim, generator=rng).to(dtype)
    return model(**inputs).sample


def attentions(model: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def cut_exactly(unet: nn.Module, allocation: Allocation) -> list[dict]:
    """Cuts only channels whose removal changes nothing once they are zero: no norm sees those of these layers."""
    graph = Graph(unet, fixed_layers(unet))
    terms = layer_terms(unet, Magnitude.terms)
    entries = [cut_group(group, Magnitude().score(group.slices(terms), group.channels, torch.Generator()), allocation,
                         terms)[0]
               for group in graph.groups()
               if group.root.endswith(("to_q", "to_k", "to_v", "net.0.proj", "linear_1", "linear_2"))]
    synchronise(unet)
    return entries


def silenced(dense: nn.Module, pruned: nn.Module, entries: list[dict]) -> nn.Module:
    """`dense` in float64, what produced the removed channels set to zero and queries to the pruned model's softmax scale."""
    dense = copy.deepcopy(dense).double()
    with torch.no_grad():
        for entry in entries:
            for layer in map(dense.get_submodule, entry["layers"]):
                for parameter in layer.parameters():
                    parameter[entry["removed"]] = 0
            if entry["root"].endswith("timestep_embedder.linear_2"):
                table = entry["root"].replace("timestep_embedder.linear_2", "class_embedder.embedding_table")
                dense.get_submodule(table).weight[:, entry["removed"]] = 0
        for name, attention in attentions(dense).items():
            for parameter in attention.to_q.parameters():
                parameter *= attentions(pruned)[name].scale / attention.scale
    return dense


@pytest.mark.parametrize("ratio", [0.3, 0.6])
@pytest.mark.parametrize("heads", ["equal", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_computes_what_the_dense_model_does_without_what_went(name: str, heads: str, ratio: float) -> None:
    dense = MODELS[name]()
    pruned = copy.deepcopy(dense)
    entries = cut_exactly(pruned, Allocation(ratio, heads=heads))
    assert all(entry["removed"] for entry in entries)
    expected, out = run(silenced(dense, pruned, entries)), run(pruned.double())
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(out, run(dense.double()), atol=1e-3)


def test_all_that_goes_from_a_transformer_could_have_been_zero() -> None:
    dense = dit()
    pruned = copy.deepcopy(dense)
    report = prune(pruned, 0.5, Magnitude())
    torch.testing.assert_close(run(pruned.double()), run(silenced(dense, pruned, report.groups)))
    roots = [group["root"].rpartition("blocks.")[2] for group in report.groups]
    assert {root[2:] for root in roots} == {"attn1.to_v", "ff.net.0.proj", "norm1.emb.timestep_embedder.linear_1",
                                            "norm1.emb.timestep_embedder.linear_2"}
    assert {entry["layer"] for entry in report.skipped} == {"proj_out_2", "pos_embed.proj"}
    assert "position embedding of fixed width" in report.skipped[1]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "round_to"), [("equal", None), ("whole", None), ("equal", 4)])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_runs_trains_and_outlasts_its_folder(tmp_path: Path, name: str, ratio: float, heads: str,
                                                            round_to: int | None) -> None:
    model = MODELS[name]()
    report = prune(model, criterion=Random(), allocation=Allocation(ratio, heads=heads, round_to=round_to))
    out = run(model)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert report.params == sum(p.numel() for p in model.parameters()) < report.params_dense
    for group in report.groups:
        assert report.layers[group["root"]]["after"][0] == group["after"]
    save_model(DiffusionModel(model, DDIMScheduler(clip_sample=False)), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert torch.equal(run(loaded.unet), out)
    save_model(loaded, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "model")


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ratio=st.floats(0.05, 0.95), head_dim=st.sampled_from([2, 4, 8, 16, 32]), heads=st.sampled_from(["equal", "whole"]),
       selection=st.sampled_from([PaperSelection, TorchPruningSelection]), round_to=st.sampled_from([None, 2, 3, 8]))
def test_heads_stay_equally_wide_and_keep_what_the_rule_says(ratio: float, head_dim: int, heads: str, selection: type,
                                                             round_to: int | None) -> None:
    model = headed_unet(head_dim)
    report = cut(model, Random(), Allocation(ratio, selection(), heads, round_to))
    run(model)
    for group in report.groups:
        count = group.get("heads", {"before": 1, "after": 1})
        width, lost = group["before"] // count["before"], [0] * count["before"]
        for channel in group["removed"]:
            lost[channel // width] += 1
        whole = heads == "whole" and count["before"] > 1
        assert set(lost) <= ({0, width} if whole else {lost[0]})
        assert count["after"] == (count["before"] - lost.count(width) if whole else count["before"])
        assert round_to is None or not group["removed"] or group["after"] % round_to == 0
        if round_to is None and selection is PaperSelection and not any(s["layer"] == group["root"] for s in report.skipped):
            blocks = width if whole else max(count["before"], group["norm_groups"])
            portion = width if whole else blocks
            expected = removal_count(group["before"], ratio) // portion * portion
            assert len(group["removed"]) == (min(expected, group["before"] - width) if whole else expected)


@given(heads=st.integers(2, 8), width=st.integers(1, 12), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_whole_heads_go_by_their_mean_score_and_never_the_last(heads: int, width: int, ratio: float, seed: int) -> None:
    scores = torch.rand(heads * width, generator=torch.Generator().manual_seed(seed))
    group = SimpleNamespace(outputs=["x"], channels=heads * width, heads=heads, blocks=heads, gated=False, obstacle=None,
                            described_blocks="")
    removed, _ = Allocation(ratio, heads="whole").choose(group, scores)
    gone = {channel // width for channel in removed}
    assert removed == [channel for head in sorted(gone) for channel in range(head * width, (head + 1) * width)]
    assert len(gone) == min(removal_count(heads * width, ratio) // width, heads - 1)
    mean = scores.view(heads, width).mean(1)
    kept = [head for head in range(heads) if head not in gone]
    assert not gone or max(mean[list(gone)]) <= min(mean[kept])


def test_the_head_that_matters_least_goes() -> None:
    model = stable_diffusion()
    name = "mid_block.attentions.0.transformer_blocks.0.attn1"
    attention = model.get_submodule(name)
    with torch.no_grad():
        for projection in (attention.to_q, attention.to_k, attention.to_v):
            projection.weight[16:24] *= 1e-3
    report = prune(model, criterion=Magnitude(), allocation=Allocation(0.3, heads="whole"))
    assert {g["root"]: g["removed"] for g in report.groups}[f"{name}.to_v"] == list(range(16, 24))
    assert (attention.heads, attention.to_q.out_features) == (3, 24)


def test_with_one_head_both_ways_are_the_same() -> None:
    reports = [prune(tiny_unet(), criterion=Magnitude(), allocation=Allocation(0.5, heads=heads))
               for heads in ("equal", "whole")]
    assert reports[0] == reports[1]
    assert not any("heads" in group for group in reports[0].groups)


def test_attention_that_normalises_its_queries_stays_whole() -> None:
    model = headed_unet()
    for attention in attentions(model).values():
        attention.norm_q = nn.LayerNorm(8)
    report = prune(model, 0.5, Magnitude())
    run(model)
    skipped = {entry["layer"]: entry["reason"] for entry in report.skipped}
    assert all("not normalised" in skipped[f"{name}.to_v"] for name in attentions(model))


def gated(report: PruneReport) -> dict[str, dict]:
    """The groups of gated feed-forwards: their root has two out-channels for each in-channel of the layer behind it."""
    return {group["root"]: group for group in report.groups if group["root"].endswith("net.0.proj")
            and group["before"] == 2 * report.layers[group["root"].replace("net.0.proj", "net.2")]["before"][1]}


def test_a_hidden_unit_goes_with_its_gate_when_either_is_among_the_least_important() -> None:
    """The published size of the latent model is that of this count: about 1 - (1 - r)² of the hidden units go."""
    model, ratio = stable_diffusion(), 0.3
    scored: dict[int, int] = {}

    class Counting(Random):
        def score(self, slices, channels, rng):
            scored[channels] = len(slices)
            return super().score(slices, channels, rng)

    report = prune(model, ratio, Counting())
    assert len(gated(report)) == 4
    for root, group in gated(report).items():
        width, units = group["before"], group["before"] // 2
        assert scored[width] == 1   # unit and gate are scored apart, and the layer behind, of another length, not at all
        gone = {channel % units for channel in group["removed"]}
        assert group["removed"] == sorted([*gone, *(unit + units for unit in gone)])
        assert removal_count(width, ratio) / 2 < len(gone) < removal_count(width, ratio)
        assert report.layers[root]["after"][0] == group["after"] == width - 2 * len(gone)
        assert report.layers[root.replace("net.0.proj", "net.2")]["after"][1] == group["after"] // 2


@pytest.mark.slow
def test_the_least_important_half_decides_over_a_hidden_unit() -> None:
    model = stable_diffusion()
    proj = model.mid_block.attentions[0].transformer_blocks[0].ff.net[0].proj
    units = proj.out_features // 2
    with torch.no_grad():
        proj.weight[3] *= 1e-3                  # the unit itself
        proj.weight[units + 5] *= 1e-3          # a gate
    report = prune(model, 2 / (2 * units), Magnitude())
    assert gated(report)["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"]["removed"] == [
        3, 5, units + 3, units + 5]


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["equal", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_widths_are_rounded_up_to_multiples(name: str, heads: str) -> None:
    plain, rounded = (prune(MODELS[name](), criterion=Magnitude(), allocation=Allocation(0.3, heads=heads, round_to=n))
                      for n in (None, 8))
    reasons = {entry["layer"]: entry["reason"] for entry in rounded.skipped}
    for free, group in zip(plain.groups, rounded.groups, strict=True):
        before, after, count = group["before"], group["after"], group.get("heads", {"before": 1})["before"]
        assert group["removed"] or "multiple of 8" in reasons[group["root"]] or "less than one" in reasons[group["root"]]
        if group["root"] in gated(rounded):
            assert after < before
            assert after // 2 % 8 == 0
        else:
            step = math.lcm(8, group["norm_groups"], count if heads == "equal" or count == 1 else before // count)
            assert after == min(math.ceil(free["after"] / step) * step, before)


def test_a_width_that_no_multiple_lies_below_stays_and_is_reported() -> None:
    report = prune(tiny_unet((8, 16)), criterion=Magnitude(), allocation=Allocation(0.5, round_to=8))
    reasons = {entry["layer"]: entry["reason"] for entry in report.skipped}
    assert reasons["conv_in"] == "no width from 4 to below 8 is a multiple of 8"
    assert all(group["after"] % 8 == 0 for group in report.groups)


@pytest.mark.parametrize(("option", "message"), [({"heads": "half"}, "heads 'half'"), ({"round_to": 0}, "round_to 0")])
def test_limits_outside_their_range_are_refused(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(tiny_unet(), criterion=Random(), allocation=Allocation(0.3, **option))


def test_scale_and_shift_follow_the_channels_they_belong_to() -> None:
    dense = headed_unet(resnet_time_scale_shift="scale_shift")
    report = prune(dense, 0.5, Random())
    run(dense).sum().backward()
    wide = {layer for group in report.groups for layer in group["layers"] if layer.endswith("time_emb_proj")}
    assert wide
    for group in report.groups:
        assert not group["root"].endswith("time_emb_proj")
        for layer in wide & set(group["layers"]):
            assert report.layers[layer]["after"][0] == 2 * group["after"]


@pytest.mark.slow
def test_the_latent_models_size_is_the_published_one() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=3, block_out_channels=(192, 384, 576, 960), layers_per_block=2,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3), cross_attention_dim=512,
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"), attention_head_dim=(1, 1, 1, 1))
    report = cut(unet, Random(), Allocation(0.3))
    assert report.params == pytest.approx(189.43e6, rel=5e-3)
    assert report.macs == pytest.approx(52.71e9, rel=5e-3)


# --- runs

def test_heads_and_widths_are_part_of_a_runs_name(config) -> None:
    assert len({run_name(config(*override)) for override in ((), ("pruner.heads=whole",), ("pruner.round_to=8",))}) == 3


def test_a_run_prunes_whole_heads_to_round_widths(config) -> None:
    cfg = config("experiment=smoke", "pruner=magnitude", "model.checkpoint=null", "model.unet.attention_head_dim=8",
                 "pruner.heads=whole", "pruner.round_to=16", "until=prune")
    run = Run(run_folder(cfg))
    reproduce(cfg, run)
    groups = json.loads(run.prune_report.read_text())["groups"]
    assert [g["heads"] for g in groups if "heads" in g] == [{"before": 8, "after": 6}] * 4
    assert all(g["after"] % 16 == 0 for g in groups)
    assert {a.heads for a in attentions(load_model(run.pruned).unet).values()} == {6}


# --- folders

def headed_folder(tmp_path: Path, heads: str = "whole") -> Path:
    model = headed_unet()
    prune(model, criterion=Magnitude(), allocation=Allocation(0.5, heads=heads))
    save_model(DiffusionModel(model, DDIMScheduler()), tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_lists_the_heads_of_narrowed_attention(tmp_path: Path) -> None:
    folder = headed_folder(tmp_path)
    listed = json.loads((folder / "unet" / "widths.json").read_text())["heads"]
    loaded = attentions(load_model(folder).unet)
    assert set(listed.values()) == {2}
    assert listed == {name: attention.heads for name, attention in loaded.items()}
    assert all(attention.scale == pytest.approx(8 ** -0.5) for attention in loaded.values())


@pytest.mark.parametrize("model", [headed_unet(), tiny_unet()])
def test_a_dense_or_one_headed_folder_lists_none(tmp_path: Path, model: nn.Module) -> None:
    if model.config.attention_head_dim is None:
        prune(model, 0.5, Magnitude())
    save_model(DiffusionModel(model, DDIMScheduler()), tmp_path / "model")
    assert set(json.loads((tmp_path / "model" / "unet" / "widths.json").read_text())) == {"sha256", "narrowed"}


@pytest.mark.parametrize("heads", ["equal", "whole"])
@pytest.mark.parametrize("change", [
    lambda listed: None, lambda listed: {}, lambda listed: dict(list(listed.items())[1:]),
    lambda listed: listed | {"conv_in": 2}, *(lambda listed, wrong=wrong: listed | {next(iter(listed)): wrong}
                                              for wrong in (3, 0, 8, "two", True))])
def test_heads_that_are_missing_or_impossible_are_refused(tmp_path: Path, change: Callable, heads: str) -> None:
    folder = headed_folder(tmp_path, heads)
    file = folder / "unet" / "widths.json"
    content = json.loads(file.read_text())
    content["heads"] = change(content["heads"])
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"widths\.json.*heads"):
        load_model(folder)


def test_narrowed_heads_without_any_list_are_refused(tmp_path: Path) -> None:
    folder = headed_folder(tmp_path)
    (folder / "unet" / "widths.json").unlink()
    (folder / "checksums.sha256").unlink()
    config = folder / "unet" / "config.json"
    content = json.loads(config.read_text())
    del content["_pruned"]
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match='must list under "heads"'):
        load_model(folder)


def test_a_pipeline_that_diffusers_itself_has_saved_keeps_its_heads(tmp_path: Path) -> None:
    model = headed_unet()
    prune(model, criterion=Magnitude(), allocation=Allocation(0.5, heads="whole"))
    DDIMPipeline(model, DDIMScheduler()).save_pretrained(tmp_path / "once")
    again = load_pipeline(tmp_path / "once")
    again.save_pretrained(tmp_path / "twice")
    loaded = load_pipeline(tmp_path / "twice").unet
    assert {name: attention.heads for name, attention in attentions(loaded).items()} == {
        name: attention.heads for name, attention in attentions(model).items()}
    assert torch.equal(run(loaded), run(model))


def test_a_transformers_folder_is_diffusers_own(tmp_path: Path) -> None:
    model = dit()
    save_model(DiffusionModel(model, DDIMScheduler()), tmp_path / "dense")
    assert torch.equal(run(DiTTransformer2DModel.from_pretrained(tmp_path / "dense" / "transformer")), run(model))
    assert isinstance(load_pipeline(tmp_path / "dense"), DiTPipeline)
    prune(model, criterion=Magnitude(), allocation=Allocation(0.5, heads="whole"))
    save_model(DiffusionModel(model, DDIMScheduler()), tmp_path / "pruned")
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size mismatch"):
        DiTTransformer2DModel.from_pretrained(tmp_path / "pruned" / "transformer")


def test_a_transformers_pipeline_draws_when_it_has_its_decoder(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    model = dit(channels=4)
    prune(model, 0.5, Magnitude())
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4).eval()
    save_model(DiffusionModel(model, DDIMScheduler(clip_sample=False), DiT(vae)), tmp_path / "model")
    save_model(load_model(tmp_path / "model"), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([1, 2], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
