"""What a later stage would refuse is refused before the first one starts."""

from pathlib import Path

import pytest

from diffprune.config.naming import run_folder
from diffprune.models.model_folder import save_model
from diffprune.pipeline import reproduce
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.stages import prune, score
from diffprune.stages.options import load_dense
from diffprune.tracking.tracker import Tracker
from tests.pruning.test_gradient_cache import small_model

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(("words", "sentence"), [
    (["+schedule.objective={no.such.Term: 1}"], "schedule.objective has no.such.Term, which is neither noise, output,"),
    (["+schedule.objective={torch.nn.Linear: 1}"], "that class is no Term"),
    (["schedule.objective.output=1", "model.checkpoint=null"], "model.checkpoint=null has random weights"),
    (["+evaluate.metrics.own._target_=no.such.Metric"], "_target_=no.such.Metric cannot be used"),
    ([f"evaluate.reference={CONF}/config.yaml"], "config.yaml holds no statistics"),
    ([f"evaluate.weights={CONF}/config.yaml"], "config.yaml holds no digits_cnn classifier"),
    (["logger._target_=no.such.Tracker"], "_target_=no.such.Tracker cannot be used"),
    (["sampler.steps=1000", "model.checkpoint=null", "model.scheduler.num_train_timesteps=999"],
     "sampler.steps=1000 are more than the 999 timesteps of model=ddpm_digits"),
    (["model.checkpoint=null", "+model.scheduler.prediction_type=mine"], "predicts mine"),
    (["model.checkpoint=null", "model.scheduler.beta_end=.5"], "leave no signal at the last timestep"),
    (["model.checkpoint=null", "+model.unet.bogus=1"], "unexpected keyword argument 'bogus'"),
    (["model.checkpoint=null", "model.scheduler.beta_schedule=no"], "no is not implemented"),
    (["pruner=magnitude", "schedule=none", "dataset.held_out=1797"],
     "dataset.held_out=1797 leaves nothing of the data set's 1797"),
    (["pruner.calibration_batch=1600"],
     r"pruner.calibration_batch=1600 asks for more images than dataset.held_out=297 leaves of the data set's 1797 \(1500\)"),
    (["pruner=magnitude", "pruner/timesteps=window"], "pruner=magnitude takes none"),
    (["pruner.criterion._target_=torch.nn.ReLU"], "_target_=torch.nn.ReLU cannot be used: it gives no Criterion"),
    (["logger._target_=torch.nn.ReLU"], "it gives no Tracker"),
    (["until=score", "dataset.channels=3", "model.checkpoint=null", "model.unet.in_channels=3", "model.unet.out_channels=3"],
     r"dataset=digits has images of shape \(1, 8, 8\), its options say \(3, 8, 8\)"),
    (["pruner.criterion._target_=no.such.Criterion"], "_target_=no.such.Criterion cannot be used")])
def test_a_mistake_is_said_before_anything_is_scored(config, words: list[str], sentence: str) -> None:
    cfg = config("device=cpu", *words)
    run = Run(run_folder(cfg))
    with pytest.raises(UserError, match=sentence):
        reproduce(cfg, run)
    assert not run.scores.exists()


def test_sampling_steps_are_looked_at_only_where_something_is_drawn(config, tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "model")
    words = (f"model.checkpoint={tmp_path}/model", "pruner=magnitude", "sampler.steps=1000")
    assert load_dense(config(*words, "until=prune")).image_shape == (1, 8, 8)
    with pytest.raises(UserError, match=r"sampler.steps=1000 are more than the \d+ timesteps"):
        load_dense(config(*words, "until=finetune"))
    random = ("model.checkpoint=null", "model.scheduler.beta_end=.5", "until=score")
    assert load_dense(config(*random)).process.signal[-1] == 0


@pytest.mark.parametrize(("words", "reason"), [
    (["pruner.ratio=.999"], "a layer would be left without channels"),
    (["pruner.round_to=1000", "pruner.ratio=.6"], ".* is a multiple of 1000")])
def test_pruning_that_removes_nothing_is_refused(config, tmp_path: Path, words: list[str], reason: str) -> None:
    save_model(small_model(), tmp_path / "model")
    cfg = config(f"model.checkpoint={tmp_path}/model", "pruner=magnitude", "sampler.steps=4", *words)
    run = Run(run_folder(cfg))
    score.stage(cfg, run, Tracker())
    with pytest.raises(UserError, match=f"removes nothing, mostly because {reason}"):
        prune.stage(cfg, run, Tracker())
    assert not run.prune_report.exists()
