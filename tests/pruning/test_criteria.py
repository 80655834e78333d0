"""Each criterion's formula, on numbers small enough to check by hand."""

import torch
from torch import Tensor

from diffprune.diffusion.randomness import generator
from diffprune.pruning.criteria import (
    TERMS,
    DiffPruning,
    DiffusersScript,
    FirstOrderTaylor,
    Magnitude,
    Random,
    SecondOrderTaylor,
    Slice,
    TorchPruningTaylor,
    reduce_term,
)

W = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]], [[[-1.0, 1.0]], [[2.0, -2.0]]]])     # [2 out, 2 in, 1, 2]
G = torch.tensor([[[[1.0, -1.0]], [[1.0, 5.0]]], [[[2.0, 0.5]], [[1.0, 1.0]]]])
NORM_W, NORM_G = torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.5])


def slices(*terms: str) -> list[Slice]:
    weight = {name: reduce_term(TERMS[name], W, G) for name in terms}
    norm = {name: reduce_term(TERMS[name], NORM_W, NORM_G)[:, None] for name in terms}
    return [Slice(False, False, weight), Slice(True, True, norm)]


def scores(criterion) -> Tensor:
    return criterion.score(slices(*criterion.terms), 2, generator(0))


def test_a_term_is_kept_per_channel_pair_summed_over_the_kernel() -> None:
    assert reduce_term(TERMS["wg"], W, G).tolist() == [[-1.0, 3.0], [-1.5, 0.0]]
    assert reduce_term(TERMS["wg2"], W, G).tolist() == [[5.0, 9.0], [4.25, 8.0]]
    assert reduce_term(TERMS["w2"], W, G).tolist() == [[5.0, 9.0], [2.0, 8.0]]


def test_diff_pruning_adds_squared_weight_terms_and_unsquared_norm_terms() -> None:
    assert scores(DiffPruning()).tolist() == [5 + 9 + 3, 4.25 + 8 + 1]


def test_first_order_taylor_is_the_absolute_value_of_the_signed_sum() -> None:
    assert scores(FirstOrderTaylor()).tolist() == [abs(-1 + 3 - 3), abs(-1.5 + 0 + 1)]


def test_second_order_taylor_adds_the_squares_before_the_absolute_value() -> None:
    assert scores(SecondOrderTaylor()).tolist() == [abs(2 - 3 + 14 + 9), abs(-1.5 + 1 + 12.25 + 1)]


def test_torch_prunings_taylor_term_is_unsigned_unsquared_and_without_group_norms() -> None:
    expected = torch.tensor([1 + 2 + 3 + 0.0, 2 + 0.5 + 2 + 2])
    assert torch.allclose(scores(TorchPruningTaylor()), expected / expected.mean())
    assert torch.equal(scores(DiffusersScript()), scores(TorchPruningTaylor()))
    assert (DiffusersScript.mean_loss, DiffusersScript.inclusive) == (True, True)
    assert (TorchPruningTaylor.mean_loss, TorchPruningTaylor.inclusive) == (False, False)


def test_magnitude_ignores_norms_and_is_relative_to_its_mean() -> None:
    assert torch.allclose(scores(Magnitude()), torch.tensor([14.0, 10.0]) / 12)


def test_magnitude_averages_over_member_layers() -> None:
    pair = [Slice(False, False, {"w2": torch.tensor(w)}) for w in ([[2.0], [4.0]], [[4.0], [10.0]])]
    assert torch.allclose(Magnitude().score(pair, 2, generator(0)), torch.tensor([3.0, 7.0]) / 5)


def test_random_is_uniform_and_follows_its_generator_alone() -> None:
    first = Random().score([], 1000, generator(0))
    torch.manual_seed(99)
    assert torch.equal(first, Random().score([], 1000, generator(0)))
    assert not torch.equal(first, Random().score([], 1000, generator(1)))
    assert float(first.min()) >= 0
    assert float(first.max()) < 1
