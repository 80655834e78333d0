"""Dropout draws for the whole batch."""

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

from diffprune.diffusion.randomness import Stream, generator
from diffprune.training.dropout import BatchDropout, set_dropout
from tests.conftest import tiny_unet

X, T = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)


def test_dropout_acts_in_the_residual_blocks_alone_and_in_training_alone() -> None:
    unet = tiny_unet()
    masks = set_dropout(unet, 0.1)
    inside = [m.dropout for m in unet.modules() if isinstance(m, ResnetBlock2D)]
    assert {m.p for m in inside} == {0.1}
    assert all(m.p == 0 for m in unet.modules() if isinstance(m, nn.Dropout))
    masks.begin(0, 0, 8, slice(0, 8))
    assert torch.equal(unet.eval()(X, T).sample, tiny_unet()(X, T).sample)
    assert not torch.equal(unet.train()(X, T).sample, tiny_unet()(X, T).sample)


def test_an_unsplit_batch_on_a_cpu_meets_torchs_own_dropout() -> None:
    ours, torchs = tiny_unet().train(), tiny_unet().train()
    set_dropout(ours, 0.3).begin(5, 2, 8, slice(0, 8))
    for module in torchs.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = 0.3
    torch.manual_seed(generator(5, Stream.DROPOUT, 2).initial_seed())
    assert torch.equal(torchs(X, T).sample, ours(X, T).sample)


def test_a_part_of_a_batch_meets_its_rows_in_every_layer() -> None:
    unet, seen = tiny_unet().train(), []
    masks = set_dropout(unet, 0.3)
    for module in unet.modules():
        if isinstance(module, BatchDropout):
            module.register_forward_hook(lambda module, given, output: seen.append((output == 0) & (given[0] != 0)))
    rows = [slice(0, 8), slice(0, 3), slice(3, 8)]
    for part in rows:
        masks.begin(0, 7, 8, part)
        unet(X[part], T[part])
    whole, *parts = (seen[i * len(seen) // 3:(i + 1) * len(seen) // 3] for i in range(3))
    assert len(whole) > 4
    for layer, first, second in zip(whole, *parts, strict=True):
        assert layer.any()
        assert torch.equal(layer, torch.cat([first, second]))


def test_what_stays_is_scaled_so_that_the_mean_stays() -> None:
    unet = tiny_unet()
    masks = set_dropout(unet, 0.25)
    masks.begin(0, 0, 64, slice(0, 64))
    drawn = masks.draw(torch.ones(64, 16, 8, 8), 0.25)
    assert set(drawn.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert abs(float(drawn.mean()) - 1) < 0.01
    assert F.dropout(torch.ones(1), 0.25, training=False) == 1
