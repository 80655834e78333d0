"""The paper's recipes, as its table has them."""

import pytest
from omegaconf import OmegaConf

from diffprune.config.naming import run_name
from diffprune.config.validation import check_values
from diffprune.runtime.errors import UserError
from tests.conftest import ROOT, tuned

DATASETS = sorted(f.stem for f in (ROOT / "conf" / "dataset").glob("*.yaml") if f.stem != "default")
# schedule: lr, batch, micro-batch, clip, dropout, ema, steps, weight decay
PAPER = {
    "finetune_100k": (2e-4, 128, 128, 1.0, 0.1, 0.9999, 100_000, 0),
    "finetune_celeba": (2e-4, 96, 96, 1.0, 0.1, 0.9999, 100_000, 0),
    "finetune_lsun_church": (2e-5, 32, 8, None, 0, 0.999, 500_000, 0),
    "finetune_lsun_bedroom": (2e-5, 48, 8, None, 0, 0.999, 200_000, 0),
    "finetune_imagenet": (1.28e-4, 64, 64, None, 0, 0, 80_073, 0.01),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers(config, name: str) -> None:
    recipe = config(f"schedule={name}").schedule
    assert PAPER[name] == (recipe.lr, recipe.batch, recipe.batch // recipe.accumulate, recipe.clip, recipe.dropout,
                           recipe.ema, recipe.steps, recipe.weight_decay)
    assert (recipe.betas, recipe.eps) == ([0.9, 0.999], 1e-8)
    assert {term: weight for term, weight in recipe.objective.items() if weight} == {"noise": 1.0}
    assert (recipe.rate, recipe.warmup) == ("constant", 0)
    assert recipe.min_snr is recipe.ema_power is None


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [*DATASETS, "experiment"])
@pytest.mark.parametrize(("schedule", "objective"), [
    ("distill", {"noise": 0.3, "output": 0.7}), ("features", {"noise": 1.0, "attention_maps": 1.0})])
def test_distillation_is_a_data_sets_own_recipe_with_a_teacher(config, dataset: str, schedule: str,
                                                               objective: dict[str, float]) -> None:
    given = ["experiment=celeba_diff_pruning"] if dataset == "experiment" else [f"dataset={dataset}", "model=ddpm_cifar10"]
    taught, plain = config(*given, f"schedule={schedule}"), config(*given)
    own, recipe = (OmegaConf.to_container(cfg.schedule, resolve=True) for cfg in (taught, plain))
    assert {key for key in own if own[key] != recipe[key]} == {"name", "objective"}
    assert own["name"] == f"{schedule}_{taught.dataset.name}"
    assert {term: weight for term, weight in own["objective"].items() if weight} == objective


def test_a_distillation_keeps_its_name(config) -> None:
    then = ("schedule.steps=300", "schedule.batch=128", "sampler.steps=50", "pruner.calibration_batch=128",
            "dataset.held_out=0")
    assert run_name(config("schedule=distill", *then)) == "ddpm_digits-diff_pruning-T0.05-r0.3-distill_digits-s0-f0f30201"
    assert run_name(config("dataset=cifar10", "schedule=distill")) == (
        "ddpm_cifar10-diff_pruning-T0.05-r0.3-distill_cifar10-s0-85a40311")


@pytest.mark.parametrize("option", ["min_snr", "clip"])
def test_what_would_train_nothing_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"schedule.{option}=0"):
        check_values(tuned(f"schedule.{option}=0"))
