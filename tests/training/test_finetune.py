"""The fine-tuning stage: interrupted anywhere and repeated it ends bit-equal, and no failure costs an undamaged state."""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from statistics import fmean

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler
from omegaconf import DictConfig
from safetensors import SafetensorError

from diffprune.config.naming import run_folder
from diffprune.data.loading.images import ImageSet
from diffprune.evaluation.held_out_loss import held_out_loss
from diffprune.models import weights
from diffprune.models.device import Execution
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.model_folder import load_model, save_model
from diffprune.pipeline import reproduce
from diffprune.runs.progress_log import ProgressLog
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json, write_json
from diffprune.runtime.interrupt import Interrupt, Interrupted
from diffprune.stages import finetune
from diffprune.stages.options import kept_channels, load_dense, load_images, parts
from diffprune.tracking.tracker import Tracker
from diffprune.training.block_outputs import output_layers
from diffprune.training.losses import NoisePrediction
from diffprune.training.state_files import read_state
from diffprune.training.trainer import Trainer
from tests.conftest import tiny_unet, tuned

STEPS = 8
SHORT = (f"schedule.steps={STEPS}", "schedule.batch=8", "schedule.save_every=3", "schedule.log_every=2",
         "schedule.preview_every=0", "schedule.ema=0.5", "dataset.held_out=8")


def pruned(folder: Path) -> Run:
    """A run whose model is pruned already."""
    run = Run(folder)
    save_model(DiffusionModel(tiny_unet(), DDIMScheduler()), run.pruned)
    return run


def fine_tune(cfg: DictConfig, run: Run) -> str:
    """Fine-tunes to the end; the digest of the weights."""
    finetune.stage(cfg, run, Tracker())
    return digest(run)


def digest(run: Run) -> str:
    assert not run.states
    return hashlib.sha256((run.finetuned / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of an undisturbed run."""
    return fine_tune(tuned(*SHORT), pruned(tmp_path_factory.mktemp("whole")))


def ask(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGTERM, 75), pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_a_request_keeps_the_last_finished_step_and_costs_nothing(tmp_path: Path, whole: str, before_step, number: int,
                                                                  code: int) -> None:
    run, cfg, former = pruned(tmp_path), tuned(*SHORT), signal.getsignal(number)
    before_step(4, ask(number))
    with pytest.raises(Interrupted) as stopped:
        fine_tune(cfg, run)
    assert stopped.value.code == code
    assert run.states[-1] == run.state(4)
    assert signal.getsignal(number) is former
    assert fine_tune(cfg, run) == whole


def slowly(step: int, pieces: list[int]) -> Callable[..., torch.Tensor]:
    """A loss that takes 20 seconds at `step`, in `pieces`, half a second into which somebody asks to stop."""
    usual, calls = NoisePrediction.__call__, count()

    def loss(self: NoisePrediction, *given: object) -> torch.Tensor:
        if next(calls) == step:
            threading.Timer(0.5, ask(signal.SIGTERM)).start()
            for piece in range(2000):
                pieces.append(piece)
                time.sleep(0.01)
        return usual(self, *given)
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_long_step_is_left_in_its_middle(tmp_path: Path, before_step, accumulate: int,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tuned(*SHORT, f"schedule.accumulate={accumulate}")
    run, pieces = pruned(tmp_path / "run"), []
    with monkeypatch.context() as patched:
        patched.setattr(NoisePrediction, "__call__", slowly(4 * accumulate, pieces))
        with pytest.raises(Interrupted):
            fine_tune(cfg, run)
    assert 0 < len(pieces) < 250        # at most 50 before the request, and two seconds' worth after it
    assert run.states[-1] == run.state(4)
    assert fine_tune(cfg, run) == fine_tune(cfg, pruned(tmp_path / "whole"))


def test_states_are_kept_by_the_clock_too(tmp_path: Path, whole: str, before_step) -> None:
    run = pruned(tmp_path)
    before_step(2, lambda: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        fine_tune(tuned(*SHORT, "schedule.save_every=1000", "schedule.save_minutes=0"), run)
    assert run.states == [run.state(1), run.state(2)]
    assert fine_tune(tuned(*SHORT, "schedule.save_every=1000", "schedule.save_minutes=0"), run) == whole


@pytest.mark.slow
def test_requests_at_random_moments_cost_nothing(tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is being done then: a pass, the optimiser's step, a line of the progress log, a state being written."""
    rng, run, cfg, stopped = random.Random(0), pruned(tmp_path), tuned(*SHORT, "schedule.save_every=1"), 0
    usual, timers = ImageSet.batches, []

    def batches(self: ImageSet, *given: object) -> Iterator:
        timers[-1].start()
        yield from usual(self, *given)
    monkeypatch.setattr(ImageSet, "batches", batches)
    for number in (signal.SIGUSR1, signal.SIGINT) * 6:
        timers.append(threading.Timer(0.02 * rng.random(), ask(number)))
        with suppress(Interrupted), Interrupt():
            finetune.stage(cfg, run, Tracker())
            timers[-1].join()
        if run.finetuned.exists():
            break
        stopped += 1
    assert stopped >= 3
    monkeypatch.setattr(ImageSet, "batches", usual)
    assert fine_tune(cfg, run) == whole


@pytest.mark.slow
def test_a_run_stopped_at_every_single_step_ends_as_one_that_never_was(tmp_path: Path, whole: str, before_step) -> None:
    run, cfg = pruned(tmp_path), tuned(*SHORT)
    for step in range(STEPS):
        before_step(step, ask(signal.SIGTERM))
        with pytest.raises(Interrupted):
            fine_tune(cfg, run)
        assert run.states[-1:] == ([run.state(step)] if step else [])
        assert len(run.states) <= 2
    assert fine_tune(cfg, run) == whole
    assert [line["step"] for line in ProgressLog.read(run.progress)] == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize("step", range(STEPS))
def test_a_process_that_dies_in_a_step_goes_on_from_the_last_kept_one(tmp_path: Path, whole: str, before_step,
                                                                     step: int) -> None:
    """An error stands in for the kill here; `test_processes` and `test_cli` kill real processes."""
    def die() -> None:
        raise MemoryError
    run, cfg = pruned(tmp_path), tuned(*SHORT)
    before_step(step, die)
    with pytest.raises(MemoryError):
        fine_tune(cfg, run)
    assert [s.name for s in run.states] == [run.state(kept).name for kept in (3, 6) if kept <= step]
    assert fine_tune(cfg, run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, whole: str, before_step, how: str,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    run, cfg = pruned(tmp_path), tuned(*SHORT)
    before_step(7, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        fine_tune(cfg, run)
    assert [s.name for s in run.states] == [run.state(6).name, run.state(7).name]
    content = bytearray(run.states[-1].read_bytes())
    content[-1000] ^= 1
    run.states[-1].write_bytes(content[:-500] if how == "torn" else content)
    assert fine_tune(cfg, run) == whole
    assert "going back to the state before it" in caplog.text


@pytest.mark.slow
def test_a_damaged_state_is_not_what_is_kept(tmp_path: Path, before_step) -> None:
    run, cfg = pruned(tmp_path), tuned(*SHORT, "schedule.keep_last=1")
    for step in (3, 2):
        before_step(step, ask(signal.SIGTERM))
        with pytest.raises(Interrupted):
            fine_tune(cfg, run)
        assert run.states == [run.state(step)]
        run.states[-1].write_bytes(b"")


@pytest.mark.slow
def test_without_an_undamaged_state_it_starts_again(tmp_path: Path, whole: str, before_step) -> None:
    run, cfg = pruned(tmp_path), tuned(*SHORT)
    before_step(6, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        fine_tune(cfg, run)
    for kept in run.states:
        kept.write_bytes(b"")
    assert fine_tune(cfg, run) == whole


@pytest.mark.slow
def test_as_many_states_are_kept_as_asked(tmp_path: Path, before_step) -> None:
    run = pruned(tmp_path)
    before_step(7, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        fine_tune(tuned(*SHORT, "schedule.save_every=1", "schedule.keep_last=3"), run)
    assert run.states == [run.state(step) for step in (5, 6, 7)]


@pytest.mark.slow
def test_a_request_during_a_preview_ends_it_with_the_state_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, cfg = pruned(tmp_path), tuned(*SHORT, "schedule.preview_every=4", "sampler.steps=2")
    expected = fine_tune(cfg, pruned(tmp_path / "other"))

    def draw(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("went on drawing")
    with monkeypatch.context() as patched:
        patched.setattr("diffprune.sampling.preview.Preview.draw", draw)
        with pytest.raises(Interrupted):
            fine_tune(cfg, run)
    assert run.states[-1] == run.state(4)
    assert fine_tune(cfg, run) == expected


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_a_preview_that_a_kill_left_undrawn_is_drawn_when_the_run_goes_on(tmp_path: Path, step: int,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of its step is kept before it."""
    run, cfg = pruned(tmp_path / "killed"), tuned(*SHORT, f"schedule.preview_every={step}", "sampler.steps=2")
    undisturbed = pruned(tmp_path / "undisturbed")
    expected = fine_tune(cfg, undisturbed)

    def die(*_: object) -> None:
        raise MemoryError
    with monkeypatch.context() as patched:
        patched.setattr("diffprune.sampling.preview.Preview.draw", die)
        with pytest.raises(MemoryError):
            fine_tune(cfg, run)
    assert run.states[-1] == run.state(step)
    assert fine_tune(cfg, run) == expected
    assert run.preview(step).read_bytes() == undisturbed.preview(step).read_bytes()


@pytest.fixture
def begun(config, before_step) -> tuple[DictConfig, Run]:
    """A run of the whole pipeline that was stopped after step 4 of its fine-tuning; nothing is due after that."""
    cfg = config(*SHORT, "until=finetune")
    run = pruned(Run(run_folder(cfg)).folder)
    run.scores.touch()
    write_json(run.prune_report, {})
    before_step(4, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        reproduce(cfg, run)
    return cfg, run


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def over_quota(*_: object, **__: object) -> None:
    """As safetensors says it."""
    raise SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)")


@pytest.mark.slow
@pytest.mark.parametrize(("until", "where"), [("score", "diffprune.models.weights.save_file"),
                                              ("prune", "safetensors.torch.save_file")])
def test_a_full_disk_before_the_fine_tuning_is_one_sentence_too(config, until: str, where: str,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("pruner=magnitude", f"until={until}")
    run = Run(run_folder(cfg))
    with monkeypatch.context() as patched:
        patched.setattr(where, over_quota)
        with pytest.raises(UserError, match=r"the disk of .* is full: make room and repeat"):
            reproduce(cfg, run)
    assert not list(run.folder.rglob("*.partial"))
    reproduce(cfg, run)
    assert run.scores.exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["state", "log", "finetuned"])
def test_a_full_disk_is_one_sentence_and_costs_no_state(begun: tuple[DictConfig, Run], whole: str, where: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, run = begun
    before = {path: path.read_bytes() for path in run.states}
    assert run.state(4) in before
    with monkeypatch.context() as patched:
        patched.setattr(*{"state": (weights, "save_file", over_quota), "log": (ProgressLog, "write", full),
                          "finetuned": (safetensors.torch, "save_file", over_quota)}[where])
        with pytest.raises(UserError, match=r"the disk of .* is full: make room and repeat") as error:
            reproduce(cfg, run)
    assert "\n" not in str(error.value)
    now = {path: path.read_bytes() for path in run.states}
    assert now if where == "finetuned" else before.items() <= now.items()     # after the fine-tuning there are newer ones
    reproduce(cfg, run)
    assert digest(run) == whole


@pytest.mark.slow
def test_a_disk_that_really_is_full(begun: tuple[DictConfig, Run], whole: str, small_disk: Path) -> None:
    cfg, elsewhere = begun
    shutil.copytree(elsewhere.folder, small_disk / "run")
    run, filler = Run(small_disk / "run"), small_disk / "filler"
    room = shutil.disk_usage(small_disk).free - 100_000       # for the progress log, not for a state
    filler.write_bytes(bytes(room))
    kept = run.state(4).read_bytes()
    with pytest.raises(UserError, match="is full"):
        reproduce(cfg, run)
    assert run.states[-1] == run.state(4)
    assert run.state(4).read_bytes() == kept
    assert not list(run.folder.rglob("*.partial"))
    filler.unlink()
    reproduce(cfg, run)
    assert digest(run) == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where the user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that this user has not")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("save_every", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_loss_that_is_nan_stops_at_its_step_and_the_last_good_state_stays(
        tmp_path: Path, save_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, usual, calls = pruned(tmp_path), NoisePrediction.__call__, []

    def breaking(self: NoisePrediction, *given: object) -> torch.Tensor:
        calls.append(None)
        return usual(self, *given) * (float("nan") if len(calls) == 6 else 1)
    monkeypatch.setattr(NoisePrediction, "__call__", breaking)
    with pytest.raises(UserError, match="at step 5"):
        fine_tune(tuned(*SHORT, f"schedule.save_every={save_every}", "schedule.log_every=100"), run)
    assert run.states[-1] == run.state({1: 5, 3: 3}[save_every])
    tensors, _ = read_state(run.states[-1])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert len(calls) == 6


@pytest.mark.parametrize("which", ["weights", "ema"])
def test_weights_that_are_nan_after_the_last_step_are_not_saved(tmp_path: Path, whole: str, which: str,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step's loss is finite: it was taken before the step."""
    run, usual = pruned(tmp_path), Trainer.update

    @torch.no_grad()
    def breaking(self: Trainer, loss: torch.Tensor) -> None:
        usual(self, loss)
        if self.step == STEPS:
            getattr(self, which)[3].view(-1)[0] = float("nan")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "update", breaking)
        with pytest.raises(UserError, match=f"at step {STEPS - 1}"):
            fine_tune(tuned(*SHORT), run)
    assert not run.finetuned.exists()
    assert run.states[-1] == run.state(6)
    assert fine_tune(tuned(*SHORT), run) == whole


def test_states_that_a_kill_left_beside_the_finetuned_model_are_deleted(begun: tuple[DictConfig, Run]) -> None:
    cfg, run = begun
    kept = run.states[-1].read_bytes()
    reproduce(cfg, run)
    run.state(4).write_bytes(kept)
    reproduce(cfg, run)
    assert run.finetuned.exists()
    assert not run.states


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    ("schedule.objective={noise: 0.3, output: 0.7}",), ("schedule.objective={place: 1}",),
    ("schedule.objective={jacobian_difference: 1}",), ("schedule.min_snr=5",), ("schedule.accumulate=3",),
    ("schedule.rate=cosine", "schedule.warmup=3"), ("schedule.ema_power=6.94",), ("precision=bf16",),
    ("memory_format=channels_last",), ("schedule.weight_decay=0.01", "schedule.ema=0", "schedule.clip=null")],
    ids=lambda given: " ".join(given))
def test_every_recipe_trains_resumes_and_has_a_result_of_its_own(tmp_path: Path, whole: str, before_step,
                                                                overrides: tuple[str, ...]) -> None:
    cfg = tuned(*SHORT, *overrides)
    straight, stopped = pruned(tmp_path / "straight"), pruned(tmp_path / "stopped")
    before_step(4, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        fine_tune(cfg, stopped)
    assert fine_tune(cfg, stopped) == fine_tune(cfg, straight) != whole
    losses = [line["loss"] for line in ProgressLog.read(straight.progress)]
    assert all(0 < loss < 1000 for loss in losses)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="precision=fp16 needs a GPU"):
        Execution.of("cpu", "fp16", "contiguous")


def test_how_a_batch_is_split_is_outside_the_name() -> None:
    name = Run(run_folder(tuned())).name
    assert Run(run_folder(tuned("schedule.accumulate=4", "schedule.keep_last=9"))).name == name
    for option in ("objective={output: 1}", "min_snr=5", "rate=cosine", "warmup=1", "ema_power=3"):
        assert Run(run_folder(tuned(f"schedule.{option}"))).name != name
    assert Run(run_folder(tuned("memory_format=channels_last"))).name != name


@pytest.mark.slow
def test_features_are_compared_on_the_channels_that_pruning_has_kept(config, tmp_path: Path) -> None:
    objective = "schedule.objective={noise: 0, kept_features: 1, attention_maps: 1}"
    cfg = config("pruner=magnitude", "schedule.steps=3", "until=finetune", objective)
    run = Run(tmp_path / "run")
    reproduce(cfg, run)
    assert run.finetuned.exists()
    teacher = load_dense(cfg)
    kept = kept_channels(cfg, run, teacher)
    widths = list(output_layers(load_model(run.finetuned).unet).values())
    assert [len(channels) for channels in kept] == widths
    assert widths != list(output_layers(teacher.unet).values())


def test_the_loss_on_held_out_images_is_measured_and_changes_nothing(tmp_path: Path, whole: str) -> None:
    run = pruned(tmp_path)
    assert fine_tune(tuned(*SHORT, "schedule.measure_every=4"), run) == whole
    steps = tuned(*SHORT).schedule.steps
    curve = read_json(run.held_out_losses)
    assert list(map(int, curve)) == [*range(0, steps, 4), steps]
    held_out = parts(tuned(*SHORT), load_images(tuned(*SHORT)))[1]
    for step, model in (("0", load_model(run.pruned)), (str(steps), load_model(run.finetuned))):
        assert curve[step] == fmean(held_out_loss(model, held_out, tuned().sampler.batch))


@pytest.mark.parametrize(("option", "held_out"), [("schedule.measure_every=0", 8), ("dataset.held_out=0", 0)])
def test_without_it_nothing_is_measured(tmp_path: Path, option: str, held_out: int) -> None:
    cfg, run = tuned(*SHORT, option), pruned(tmp_path)
    assert cfg.dataset.held_out == held_out
    fine_tune(cfg, run)
    assert not run.held_out_losses.exists()


@pytest.mark.slow
def test_a_request_while_it_is_measured_costs_nothing(tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, run = tuned(*SHORT, "schedule.measure_every=2"), pruned(tmp_path)
    usual = finetune.held_out_loss

    def asked(model: DiffusionModel, *given: object) -> list[float]:
        if len(read_json(run.held_out_losses) if run.held_out_losses.exists() else {}) == 2:     # at step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(model, *given)
    monkeypatch.setattr(finetune, "held_out_loss", asked)
    with pytest.raises(Interrupted):
        fine_tune(cfg, run)
    assert run.states[-1] == run.state(4)
    assert list(read_json(run.held_out_losses)) == ["0", "2"]
    monkeypatch.setattr(finetune, "held_out_loss", usual)
    assert fine_tune(cfg, run) == whole
    fine_tune(cfg, undisturbed := pruned(tmp_path / "undisturbed"))
    assert read_json(run.held_out_losses) == read_json(undisturbed.held_out_losses)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3, 6])
def test_what_a_killed_training_had_measured_after_its_last_state_is_measured_again(tmp_path: Path, whole: str, step: int,
                                                                                    before_step) -> None:
    cfg, run = tuned(*SHORT, "schedule.measure_every=2"), pruned(tmp_path)
    before_step(step, ask(signal.SIGTERM))
    with pytest.raises(Interrupted):
        fine_tune(cfg, run)
    before = read_json(run.held_out_losses)
    assert max(map(int, before)) <= step
    write_json(run.held_out_losses, before | {"6": 1e9, str(STEPS): 1e9}, checksum=True)
    assert fine_tune(cfg, run) == whole
    fine_tune(cfg, undisturbed := pruned(tmp_path / "undisturbed"))
    assert read_json(run.held_out_losses) == read_json(undisturbed.held_out_losses)


@pytest.mark.slow
def test_a_training_that_is_made_again_has_a_curve_of_its_own(tmp_path: Path) -> None:
    run = pruned(tmp_path)
    fine_tune(tuned(*SHORT, "schedule.measure_every=2"), run)
    shutil.rmtree(run.finetuned)
    fine_tune(tuned(*SHORT, "schedule.measure_every=4"), run)
    assert list(read_json(run.held_out_losses)) == ["0", "4", str(STEPS)]
    shutil.rmtree(run.finetuned)
    fine_tune(tuned(*SHORT, "schedule.measure_every=0"), run)
    assert read_json(run.held_out_losses) == {}


def test_a_damaged_file_of_the_curve_is_named(tmp_path: Path) -> None:
    run = pruned(tmp_path)
    write_json(run.held_out_losses, {"0": 1.0}, checksum=True)
    run.held_out_losses.write_text("{}")
    with pytest.raises(UserError, match=r"held_out\.json .*delete it and repeat the command"):
        fine_tune(tuned(*SHORT), run)
