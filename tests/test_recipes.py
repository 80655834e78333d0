"""The paper's recipes, as its table has them."""

import pytest
from omegaconf import OmegaConf

from tests.conftest import ROOT

# schedule: lr, batch, micro-batch, clip, dropout, ema, steps, weight decay
PAPER = {
    "finetune_100k": (2e-4, 128, 128, 1.0, 0.1, 0.9999, 100_000, 0),
    "finetune_celeba": (2e-4, 96, 96, 1.0, 0.1, 0.9999, 100_000, 0),
    "finetune_lsun_church": (2e-5, 32, 8, None, 0, 0.999, 500_000, 0),
    "finetune_lsun_bedroom": (2e-5, 48, 8, None, 0, 0.999, 200_000, 0),
    "finetune_imagenet": (1.28e-4, 64, 64, None, 0, 0, 80_073, 0.01),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers(name: str) -> None:
    recipe = OmegaConf.load(ROOT / "conf" / "schedule" / f"{name}.yaml")
    assert PAPER[name] == (recipe.lr, recipe.batch, recipe.batch // recipe.accumulate, recipe.clip, recipe.dropout,
                           recipe.ema, recipe.steps, recipe.weight_decay)
    assert (recipe.betas, recipe.eps) == ([0.9, 0.999], 1e-8)
    assert (recipe.loss, recipe.rate, recipe.warmup) == ("noise", "constant", 0)
    assert recipe.min_snr is recipe.ema_power is None


def test_distillation_is_a_data_sets_own_recipe_with_a_teacher(config) -> None:
    for schedule, own in (("distill", "finetune_digits"), ("distill_cifar10", "finetune_cifar10")):
        taught, plain = (OmegaConf.to_container(config(f"schedule={name}").schedule) for name in (schedule, own))
        assert {key for key in taught if taught[key] != plain[key]} == {"name", "loss"}
        assert taught["loss"] == "distill"
