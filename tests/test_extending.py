"""What docs/extending.md shows works as it stands there, from a folder outside the repository."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
SMALL = ("schedule.steps=2", "schedule.batch=8", "pruner.calibration_batch=4", "evaluate.images=24", "sampler.steps=2",
         "evaluate.batch=24", "logger=none", "device=cpu", "evaluate.speed=false")
KINDS = {"pruner": 2, "schedule": 2, "dataset": 2, "model": 2, "pruner/timesteps": 2, "evaluate": 2}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return tmp_path


def test_each_extension_is_one_class_and_one_configuration() -> None:
    configurations = [name for name in FILES if name.startswith("conf/")]
    assert {str(Path(name).parent.relative_to("conf")) for name in configurations} == set(KINDS)
    assert len(FILES) == sum(KINDS.values())


@pytest.mark.slow
def test_the_run_of_the_page_uses_every_extension(outside: Path) -> None:
    (command,) = re.findall(r"python -m diffprune (.*)", PAGE)
    for until in ("prune", "evaluate"):      # a process that only goes on has to find the family of the folder that it reads
        done = subprocess.run(
            [sys.executable, "-m", "diffprune", *command.split(), *SMALL, f"until={until}"], cwd=outside,
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": f"{outside}:{ROOT}", "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    (folder,) = (outside / "runs" / "stripes").iterdir()
    assert folder.name.startswith("small-absolute_gradient-every10-r0.3-huber-s0-")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["mean_distance"] > 0
    assert "distance of means" in done.stdout + (folder / "report.html").read_text()
    assert json.loads((folder / "prune.json").read_text())["params"] < metrics["params_dense"]
