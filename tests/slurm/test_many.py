"""Two hundred cells at once on a real Slurm, and beside them a job that runs into its time limit."""

import sys

import pytest

from tests.conftest import ROOT
from tests.slurm.conftest import Jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
CELL = """\
import sys
from pathlib import Path
from diffprune.runtime.files import write_json
folder, index = Path(sys.argv[1]), int(sys.argv[2])
if index < 20:      # starting the cache costs a CPU more than all the rest
    from diffprune.runs.cache import Cache
    with Cache(folder / "cache").entry("shared", index % 5, ".json") as file:
        if not file.exists():
            write_json(file, {"made by": index})
            with (folder / "made").open("a") as made:
                made.write(f"{index % 5}\\n")
write_json(folder / "runs" / "digits" / f"cell-{index}" / "metrics.json", {"index": index})
with (folder / "finished").open("a") as finished:
    finished.write(f"{index}\\n")
"""


def test_two_hundred_cells_lose_double_and_tear_nothing_while_another_job_outlives_its_limit(jobs: Jobs) -> None:
    """Two arrays, since this Slurm takes 101 tasks each, the second after the first; 7 cells and the long one on 8 CPUs."""
    program = jobs.folder / "cell.py"
    program.write_text(CELL)
    limited = jobs.submit(jobs.count("limited", 700), options=("--time=1", "--signal=USR1@45", "--job-name=limited"))
    many = jobs.submit(*([sys.executable, str(program), str(jobs.folder), str(i)] for i in range(200)), cap=7,
                       options=(f"--export=ALL,PYTHONPATH={ROOT}",))
    jobs.ended(many, patience=900)
    jobs.ended(limited)
    assert sorted(jobs.finished()) == sorted([*map(str, range(200)), "limited"])
    written = [file.read_text() for file in (jobs.folder / "runs").rglob("metrics.json")]
    assert len(written) == 200
    assert all(text.endswith("}\n") for text in written)
    assert sorted((jobs.folder / "made").read_text().split()) == list("01234")
    assert not list(jobs.folder.rglob("*.partial"))
    assert jobs.said().count("asked to stop at") >= 1
    assert jobs.counted("limited") == list(range(700))


