"""Three criteria are called Diff-Pruning; each computes what it says, the library's exactly what the library does."""

import copy

import pytest
import torch
import torch_pruning as tp
from diffusers import DDIMScheduler

from diffprune.models.cost import example_inputs
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.pruning import criteria
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.gradients import CalibrationBatch, ScoringPass
from diffprune.pruning.importance import layer_terms, score
from diffprune.pruning.selection import PaperSelection, TorchPruningSelection
from diffprune.pruning.surgery import cut
from diffprune.pruning.timesteps import Threshold, timesteps_kept
from tests.conftest import tiny_unet


@pytest.fixture
def model() -> DiffusionModel:
    return DiffusionModel(tiny_unet((16, 32)), DDIMScheduler(num_train_timesteps=30, beta_end=0.4))


@pytest.fixture
def batch() -> CalibrationBatch:
    rng = torch.Generator().manual_seed(1)
    return CalibrationBatch(torch.rand(6, 1, 8, 8, generator=rng) * 2 - 1, torch.randn(6, 1, 8, 8, generator=rng))


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_torch_prunings_family_is_what_the_library_computes(model: DiffusionModel, batch: CalibrationBatch,
                                                            ratio: float) -> None:
    ScoringPass(model, batch).accumulate(torch.ones(30))       # gradients of every timestep now lie in .grad
    theirs = copy.deepcopy(model.unet)
    for p, q in zip(theirs.parameters(), model.unet.parameters(), strict=True):
        p.grad = None if q.grad is None else q.grad.clone()
    tp.pruner.BasePruner(theirs, example_inputs(theirs), importance=tp.importance.GroupTaylorImportance(),
                         pruning_ratio=ratio, ignored_layers=[theirs.conv_out], channel_groups={}, unwrapped_parameters=None,
                         customized_pruners={}).step()
    criterion = criteria.TorchPruningTaylor()
    cut(model.unet, criterion, Allocation(ratio, TorchPruningSelection()), layer_terms(model.unet, criterion.terms))
    ours, reference = model.unet.state_dict(), theirs.state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in reference.items()}
    assert all(torch.equal(ours[name], reference[name]) for name in ours)


def test_the_script_counts_the_timestep_at_which_the_threshold_is_reached(model: DiffusionModel,
                                                                          batch: CalibrationBatch) -> None:
    loss, _ = ScoringPass(model, batch).sum(Threshold(0.0))
    threshold = float(loss[12] / loss[:13].max()) + 1e-4
    stop = timesteps_kept(loss, threshold)
    assert 0 < stop < 30
    for criterion, kept in ((criteria.TorchPruningTaylor(), stop), (criteria.DiffusersScript(), stop + 1)):
        assert score(model, criterion, batch, Threshold(threshold, criterion.inclusive)).losses.kept == kept


@pytest.mark.slow
def test_the_mean_loss_scales_linear_terms_and_changes_what_mixes_powers(model: DiffusionModel,
                                                                         batch: CalibrationBatch) -> None:
    class AllTerms(criteria.DiffPruning):
        terms = criteria.TERMS

    class OfMeanLoss(AllTerms):
        mean_loss = True

    summed, mean = (score(model, criterion, batch, Threshold(0.0)).terms for criterion in (AllTerms(), OfMeanLoss()))
    for layer, term in summed["abs_wg"].items():
        torch.testing.assert_close(mean["abs_wg"][layer], term / 64, rtol=1e-3, atol=1e-6)

    def removed(criterion: criteria.Criterion, terms: dict) -> list:
        return [g["removed"] for g in cut(copy.deepcopy(model.unet), criterion, Allocation(0.5), terms).groups]

    assert removed(criteria.TorchPruningTaylor(), summed) == removed(criteria.TorchPruningTaylor(), mean)
    assert removed(criteria.DiffPruning(), summed) != removed(criteria.DiffPruning(), mean)


def test_the_two_selections_give_different_sizes(model: DiffusionModel) -> None:
    sizes = [cut(copy.deepcopy(model.unet), criteria.Random(), Allocation(0.3, selection())).params
             for selection in (PaperSelection, TorchPruningSelection)]
    assert sizes[1] < sizes[0]
