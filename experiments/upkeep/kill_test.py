"""Compares a run that is killed at random moments with one that is not.

`python -m experiments.upkeep.kill_test [--kills 20] [OVERRIDES…]`

Both do the default run on the digits, or the run of the overrides, in a temporary folder. Every kill is a `kill -9`, after
which the same command is started again. Ends with status 1 where a number, a weight or an image differs.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

from diffprune.config.schema import STAGES
from diffprune.runs.progress_log import ProgressLog
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import read_json

OWN = ("logger=none", "device=cpu", "schedule.save_every=20")       # a state now and then, for kills that come fast
TIMED = {"seconds", "images_per_second", "images_per_second_dense", "speedup", "command", "commit"}
OVER = "too late"
UNLIKE = {"diffprune.log", "config.yaml", "report.html", "status.json"}     # paths, processes and the time of day


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.upkeep.kill_test", description=__doc__.split("\n\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the run (default: none, the default run on the digits)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args(words)
    with one_sentence(), tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        seconds = finish(whole, arguments.overrides)
        rng = random.Random(arguments.seed)
        moments = sorted(rng.uniform(0, seconds) for _ in range(arguments.kills))
        stages = Counter(kill(killed, arguments.overrides, after - before)
                      for before, after in zip([0.0, *moments], moments, strict=False))
        finish(killed, arguments.overrides)
        if stages[OVER] == arguments.kills:
            raise UserError("the run ended before each kill, which shows nothing: choose a longer run")
        if different := sorted(set(digests(whole).items()) ^ set(digests(killed).items())):
            raise UserError(f"{', '.join(sorted({name for name, _ in different}))} differ after {dict(stages)} kills")
    where = ", ".join(f"{count} {'' if stage == OVER else 'in '}{stage}"
                      for stage in (*STAGES, OVER) if (count := stages[stage]))
    print(f"{arguments.kills} kills ({where}): every number, weight and image is that of a run that was never killed")


def begin(folder: Path, overrides: list[str]) -> subprocess.Popen:
    own = (f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", *OWN)
    return subprocess.Popen([sys.executable, "-um", "diffprune", *own, *overrides], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def first_stage(process: subprocess.Popen) -> str:
    """Waits for the process's first stage and returns its name; OVER where no stage is left to do."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().endswith("…") and (stage := line.split()[0]) in STAGES:
            return stage
    return OVER


def finish(folder: Path, overrides: list[str]) -> float:
    """Lets the run finish; returns its seconds from the first stage on."""
    process = begin(folder, overrides)
    first_stage(process)
    start = time.monotonic()
    output = process.communicate()[0]
    if process.returncode:
        raise UserError(f"the run ended with status {process.returncode}: {output[-500:]}")
    return time.monotonic() - start


def kill(folder: Path, overrides: list[str], after: float) -> str:
    """Kills the run `after` so many seconds of work; returns the stage that it was in."""
    process = begin(folder, overrides)
    stage = first_stage(process)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    rest = [line.split()[0] for line in process.communicate()[0].splitlines() if line.strip().endswith("…")]
    if process.returncode != -signal.SIGKILL:
        return OVER
    return ([stage] + [stage for stage in rest if stage in STAGES])[-1]


def digests(folder: Path) -> dict[str, str]:
    """{file: digest} of all that the only run in `folder` made, without times of day and durations."""
    (run,) = (folder / "runs").glob("*/*/")
    return {str(file.relative_to(run)): hashlib.sha256(content(file)).hexdigest()
            for file in run.rglob("*") if file.is_file() and file.name not in UNLIKE and file.suffix != ".sha256"}


def content(file: Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(untimed(read_json(file)), sort_keys=True).encode()
    if file.suffix == ".jsonl":
        return json.dumps([untimed(line) for line in ProgressLog.read(file)]).encode()
    if file.name == "scores.safetensors":
        with safe_open(file, "np") as tensors:
            return b"".join(name.encode() + tensors.get_tensor(name).tobytes() for name in sorted(tensors.keys()))
    return file.read_bytes()


def untimed(record: Any) -> Any:
    return {name: value for name, value in record.items() if name not in TIMED} if isinstance(record, dict) else record


if __name__ == "__main__":
    main()
