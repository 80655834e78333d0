"""The scores file: what is written is read, with torch and without."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.pruning.scores import Scores
from diffprune.runs.score_file import ScoreHeader, TimestepLosses
from diffprune.runtime.errors import Damaged
from tests.conftest import ROOT

LOSS = np.array([3.0, 2.0, 1.0], dtype=np.float32)
LOSSES = [None, TimestepLosses(LOSS, 0.5, 2, {"0.5": 2}),
          TimestepLosses(LOSS, 0.0, 1, {"0.5": 2}, "Window(first=1, last=1)", np.array([0, 1, 0], dtype=np.float32))]


@pytest.mark.parametrize("losses", LOSSES)
def test_what_is_written_is_read(tmp_path: Path, losses: TimestepLosses | None) -> None:
    terms = {"wg": {"down.0/conv": torch.rand(3, 2), "norm": torch.rand(3)}}
    Scores("some", 1.5, losses, terms).write(tmp_path / "scores.safetensors")
    read, header = (kind.read(tmp_path / "scores.safetensors") for kind in (Scores, ScoreHeader))
    assert (read.criterion, read.seconds) == (header.criterion, header.seconds) == ("some", 1.5)
    assert all(torch.equal(read.terms["wg"][layer], term) for layer, term in terms["wg"].items())
    for mine in (read.losses, header.losses):
        assert (mine is None) == (losses is None)
        for name, value in vars(losses).items() if losses else ():
            np.testing.assert_equal(getattr(mine, name), value)


@pytest.mark.parametrize("written", [np.float32(2.0).tobytes(), b'"seconds', b"loss"])
def test_a_flipped_bit_in_the_header_or_the_losses_is_seen_without_reading_the_terms(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "scores.safetensors"
    Scores("some", 1.5, LOSSES[1], {"wg": {"conv": torch.ones(3, 2)}}).write(path)
    content = bytearray(path.read_bytes())
    content[content.index(written) + len(written) - 1] ^= 1
    path.write_bytes(content)
    for kind in (ScoreHeader, Scores):
        with pytest.raises(Damaged, match=r"scores\.safetensors .*delete it and repeat"):
            kind.read(path)


def test_the_header_is_read_without_torch() -> None:
    code = "import sys, diffprune.runs.score_file; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
