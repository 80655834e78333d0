"""Random streams: one for each purpose and each image."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Generator, Tensor


class Stream(IntEnum):
    """What a random stream is for: streams of one seed never meet."""
    ORDER = 1
    FLIP = 2
    CALIBRATION = 3
    CHANNELS = 4
    WEIGHTS = 5
    TRAINING = 6
    DROPOUT = 7
    IMAGE = 8
    COMPENSATION = 9
    DIRECTION = 10
    HELD_OUT = 11
    CONDITION = 12


def generator(*keys: int) -> Generator:
    """A CPU generator seeded by `keys` (non-negative integers), any two tuples of which give unrelated streams."""
    state = 0x9E3779B97F4A7C15
    for key in keys:                # SplitMix64's finaliser after each key
        state = (state ^ int(key)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return Generator().manual_seed(state % 2**63)


class Noise:
    """Gaussian noise in which every image has a stream of its own: image i's draws depend on (seed, i) alone."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self.streams = [generator(seed, Stream.IMAGE, index) for index in indices]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next draw of every stream, [len(indices), *shape], float32 on the CPU."""
        return torch.stack([torch.randn(tuple(shape), generator=stream) for stream in self.streams])


def noise_for(indices: Sequence[int], shape: Sequence[int], seed: int) -> Tensor:
    """The starting noise x_T of the images `indices`: [len(indices), *shape]."""
    return Noise(indices, seed).draw(shape)
