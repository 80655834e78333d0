"""Where and how networks run: what "auto" takes, and that the quick ways compute what the plain ones do."""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffprune.config.naming import run_name, scientific
from diffprune.models import device as module
from diffprune.models.device import CPU, Execution, device_named
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.runs.metrics import Metrics
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json, write_json
from diffprune.sampling.draw import draw, draw_all
from diffprune.sampling.protocol import Drawing, SamplerOptions
from diffprune.stages.options import drawing, execution
from diffprune.training.losses import NoisePrediction, OutputDistillation
from diffprune.training.recipe import Recipe
from diffprune.training.trainer import Trainer
from tests.conftest import tiny_unet

GPU = torch.device("cuda")
OPTIONS = SamplerOptions(3)


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet(), DDIMScheduler())


def test_auto_is_float32_with_bf16_beside_it_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, near in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(module, "computes_bf16", lambda _, has_bf16=has_bf16: has_bf16)
        chosen = Execution.of("cpu", "auto")
        assert (chosen.precision, chosen.approximate.precision, chosen.memory_format) == ("fp32", near, "contiguous")
    assert Execution.of("cpu", "bf16").approximate.precision == "bf16"


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_that_needs_a_gpu_is_refused_on_a_cpu(precision: str) -> None:
    with pytest.raises(UserError, match=f"precision={precision} needs a GPU: on a CPU give precision=fp32"):
        Execution.of("cpu", precision)


@pytest.mark.parametrize(("precision", "memory_format"), [
    ("fp32", "contiguous"), ("auto", "contiguous"), ("tf32", "channels_last"), ("bf16", "channels_last")])
def test_convolutions_on_a_gpu_are_channels_last_in_all_but_float32(precision: str, memory_format: str,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "device_named", lambda _: GPU)
    monkeypatch.setattr(module, "computes_bf16", lambda _: True)
    assert Execution.of("cuda", precision).memory_format == memory_format
    assert Execution.of("cuda", precision, "contiguous").memory_format == "contiguous"


def test_float32_is_never_rounded_to_tf32_unless_that_is_the_precision(model: DiffusionModel) -> None:
    torch.backends.cudnn.allow_tf32 = True      # as PyTorch starts
    device_named("auto")
    allowed = [torch.backends.cudnn.allow_tf32]
    for precision in ("tf32", "fp32"):
        with Execution(precision=precision).autocast():
            allowed += [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
    assert allowed == [False, True, True, False, False]


def test_tf32_is_used_in_both_passes_of_a_step_and_not_beside_it(model: DiffusionModel) -> None:
    trainer, allowed = Trainer(model, Recipe(1, batch=2), Execution(precision="tf32")), {}
    layer = model.unet.conv_out
    layer.register_forward_hook(lambda *_: allowed.update(forward=torch.backends.cudnn.allow_tf32))
    layer.register_full_backward_hook(lambda *_: allowed.update(backward=torch.backends.cudnn.allow_tf32))
    device_named("auto")
    trainer.advance(torch.randn(2, 1, 8, 8), None)
    assert allowed == {"forward": True, "backward": True}
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("device", "evaluations", "mode"), [
    (CPU, 10**6, "no"), (GPU, module.FEWEST_EVALUATIONS - 1, "no"), (GPU, module.FEWEST_EVALUATIONS, "default")])
def test_auto_compiles_where_that_pays(device: torch.device, evaluations: int, mode: str) -> None:
    assert Execution(device, compile="auto").compiled_for(evaluations).compile == mode
    assert Execution(device, compile="max-autotune").compiled_for(evaluations).compile == "max-autotune"


def test_the_stages_count_what_they_evaluate(config, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(Execution, "compiled_for", lambda self, count: (counts.append(count), self)[1])
    drawing(config("evaluate.images=100", "sampler.batch=30", "sampler.steps=7"))
    assert counts == [4 * 7]


def test_weights_that_are_cast_once_give_the_bits_of_autocast(model: DiffusionModel, tmp_path: Path) -> None:
    with torch.no_grad():
        for weight in model.unet.parameters():      # norms of other weights than 1
            weight.mul_(1 + 0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    how = Execution(precision="bf16")
    ready = how.for_evaluations(model)
    assert ready.unet.conv_in.weight.dtype == torch.bfloat16
    assert ready.unet.conv_norm_out.weight.dtype == torch.float32
    assert {weight.dtype for weight in model.unet.parameters()} == {torch.float32}
    once, each_time = draw(ready, range(4), OPTIONS, how), draw(model, range(4), OPTIONS, how)
    assert np.array_equal(once, each_time)
    assert not np.array_equal(once, draw(model, range(4), OPTIONS))
    draw_all(model, Drawing(4, OPTIONS, 4, how), tmp_path / "set.npy", "set", quiet=True)
    assert np.array_equal(np.load(tmp_path / "set.npy"), once)


@pytest.mark.slow
def test_a_compiled_network_draws_and_learns_what_the_network_does(tmp_path: Path) -> None:
    model = DiffusionModel(tiny_unet((8,)), DDIMScheduler())
    how, sets = Execution(compile="default"), {}
    for name, each in (("plain", replace(how, compile="no")), ("compiled", how)):
        draw_all(model, Drawing(5, OPTIONS, 3, each), tmp_path / f"{name}.npy", name, quiet=True)    # a smaller last shard
        sets[name] = np.load(tmp_path / f"{name}.npy").astype(int)
    assert sets["compiled"].shape == (5, 8, 8, 1)
    assert np.abs(sets["compiled"] - sets["plain"]).max() <= 1
    losses = []
    for each in (replace(how, compile="no"), how):
        trainer = Trainer(DiffusionModel(tiny_unet((8,)), DDIMScheduler()), Recipe(4, batch=4, dropout=0.1), each)
        for step in range(3):
            trainer.advance(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)), None)
        losses.append(trainer.mean_loss())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_an_objective_that_reads_blocks_or_differentiates_twice_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprune.training.losses import TERMS
    made: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: (made.append(network), network)[1])
    for name, term in TERMS.items():
        student, teacher = (DiffusionModel(tiny_unet(), DDIMScheduler()) for _ in range(2))
        before = len(made)
        Trainer(student, Recipe(1, batch=2, objective={term: 1.0}), Execution(compile="default"), teacher=teacher)
        assert (len(made) > before) == (name in ("noise", "output", "place"))


def test_the_teacher_alone_is_evaluated_in_the_precision_of_what_is_near(model: DiffusionModel) -> None:
    teacher, kinds = DiffusionModel(tiny_unet(), DDIMScheduler()), {}
    recipe = Recipe(1, batch=2, objective={NoisePrediction: 0.3, OutputDistillation: 0.7})
    trainer = Trainer(model, recipe, Execution(approximate_precision="bf16"), teacher=teacher)
    for name, network in (("student", model.unet), ("teacher", teacher.unet)):
        network.conv_out.register_forward_hook(lambda _, __, y, name=name: kinds.update({name: y.dtype}))
    trainer.advance(torch.randn(2, 1, 8, 8), None)
    assert kinds == {"student": torch.float32, "teacher": torch.bfloat16}


def test_names_and_files_from_before_float32_was_called_so_stay(config, tmp_path: Path) -> None:
    assert run_name(config("dataset.held_out=0")) == "ddpm_digits-diff_pruning-T0.05-r0.3-finetune_digits-s0-f7400c8f"
    assert run_name(config("precision=bf16")) != run_name(config("precision=auto")) != run_name(config())
    assert run_name(config("memory_format=contiguous")) == run_name(config()) == run_name(config("compile=default"))
    from diffprune.config.naming import science
    former = science(config()) | {"precision": "no", "memory_format": "contiguous"}
    assert scientific(dict(former)) == science(config())
    numbers = dict.fromkeys(("seed", "params", "macs", "params_dense", "macs_dense", "images"), 0)
    names = dict.fromkeys(("name", "dataset", "model", "pruner", "schedule", "features"), "")
    write_json(tmp_path / "metrics.json", {**names, **numbers, "protocol": {"precision": "no"}})
    assert Metrics.read(tmp_path / "metrics.json").protocol["precision"] == "fp32"
    assert read_json(tmp_path / "metrics.json")["protocol"]["precision"] == "no"


def test_what_is_compiled_is_kept_in_the_cache(config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for before, after in ((f"{gettempdir()}/torchinductor_somebody", str(tmp_path / "compiled")), ("/mine", "/mine")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
        execution(config(f"paths.cache={tmp_path}"))
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == before
        execution(config(f"paths.cache={tmp_path}", "compile=default"))
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == after
