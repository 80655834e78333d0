"""What a person may not read is named in one sentence, whatever asks for it first."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import data_sets_on_disk as made
from tests.conftest import ROOT

NOBODY = 65534      # the tests may run as root, to whom nothing is denied

SCRIPT = """
import json, os, sys
from omegaconf import OmegaConf
from diffprune.config import validation
from diffprune.data import celeba, cifar10, image_folder, imagenet, lsun
from diffprune.runtime.errors import UserError
from diffprune.evaluation.image_files import open_images
from diffprune.evaluation.feature_statistics import FeatureStatistics
from pathlib import Path
import pyarrow.parquet, datasets

def checked(place):
    validation.check_paths(OmegaConf.create({"paths": {"runs": "runs", "cache": "cache"},
                                              "dataset": {"name": "celeba", "path": place}, "evaluate": {"features": "x"},
                                              "model": {"name": "x", "checkpoint": "shipped:x"}}))

asks = {
    "cifar10": lambda place: cifar10.load(place, flip=False),
    "celeba": lambda place: celeba.load(place, 8, flip=False),
    "lsun": lambda place: lsun.load(place, "lsun_church", 8, flip=False),
    "imagenet": lambda place: imagenet.load(place, 8, flip=False),
    "image_folder": lambda place: image_folder.load(place, 8, 3, flip=False),
    "measure": lambda place: open_images(Path(place)),
    "composition": lambda place: checked(place + "/inside"),
    "parquet": lambda place: imagenet.load(place + ".parquet", 8, flip=False),
    "parquet of cifar10": lambda place: cifar10.load(place + ".parquet", flip=False),
    "statistics": lambda place: FeatureStatistics.read(Path(place + ".npz")),
    "archive": lambda place: image_folder.load(place + ".zip", 8, 3, flip=False),
    "batches": lambda place: cifar10.load(place + ".tar.gz", flip=False),
    "labels": lambda place: imagenet.load(str(Path(place).parent / "images"), 8, flip=False, labels=place + ".txt"),
    "partition": lambda place: celeba.training(Path(place + ".txt")),
}
if os.getuid() == 0:
    os.setuid(int(sys.argv[2]))
said = {}
for name, ask in asks.items():
    try:
        ask(sys.argv[1])
    except UserError as error:
        said[name] = str(error)
    except Exception as error:
        said[name] = f"{type(error).__name__}, a traceback"
print(json.dumps(said))
"""


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that only root can look into, in one that everybody can."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "locked"
        folder.mkdir()
        made.table(folder.with_suffix(".parquet")).chmod(0)
        made.folder(folder.parent / "images")
        for suffix in (".txt", ".npz", ".zip", ".tar.gz"):
            folder.with_suffix(suffix).write_text("000001.jpg 0")
            folder.with_suffix(suffix).chmod(0)
        folder.chmod(0)
        yield folder
        folder.chmod(0o700)


@pytest.mark.slow
def test_no_permission_is_one_sentence_that_names_the_place(locked: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(locked), str(NOBODY)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 14
    for name, sentence in said.items():
        assert str(locked) in sentence, (name, sentence)
        assert "Permission denied" in sentence, (name, sentence)
        assert "\n" not in sentence
