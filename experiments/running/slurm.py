"""A plan's missing cells as array jobs.

`python -m experiments.running.slurm PLAN.json [--cap K] [--dry-run] [SBATCH OPTION…]`

A plan is a list of cells, `[{"title": …, "command": ["python", "-m", "diffprune", …], "done": false}, …]`; `-` reads it from
standard input. Options that are not listed here go to `sbatch` as they are, for instance --time=4:00:00 --gpus-per-node=1.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffprune.config.naming import fingerprint
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import write_json
from diffprune.runtime.slurm import queue

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "runs" / ".slurm"
LARGEST_ARRAY = 1001        # Slurm's own default of MaxArraySize
Cell = dict[str, Any]


def submit(cells: Iterable[Cell], name: str, cap: int | None = None, options: Sequence[str] = (), dry_run: bool = False,
           logs: Path = LOGS) -> list[str]:
    """Submits cells and returns the numbers of the array jobs, which it tells; at most `cap` cells run at once.

    Leaves out those that are `done` or in the queue already. What is submitted is written to `logs/NAME/` first: a plan that
    changes later changes no job that waits. As many array jobs as Slurm's MaxArraySize asks for; with a cap each begins when
    the one before has ended. `dry_run` prints the commands and does nothing. Raises UserError for a cap below one,
    CalledProcessError where `sbatch` refuses, which has said why on standard error.
    """
    if cap is not None and cap < 1:
        raise UserError(f"--cap {cap} lets no cell run: give a number from 1 on")
    missing = [{"title": cell.get("title", ""), "command": here(cell["command"])} for cell in cells if not cell.get("done")]
    waiting = in_queue()
    wanted = [cell for cell in missing if tuple(cell["command"]) not in waiting]
    folder = logs.absolute() / re.sub(r"[^\w.-]+", "-", name)
    plan, jobs = folder / f"{fingerprint(wanted)}.json", []
    if wanted and not dry_run:
        write_json(plan, wanted)
    for first, last in chunks(len(wanted), largest_array()):
        after = [f"--dependency=afterany:{jobs[-1]}"] if cap and jobs else []
        words = ["--parsable", f"--job-name={name}", f"--output={folder}/%A_%a.log",
                 f"--array=0-{last - first}" + (f"%{cap}" if cap else ""), *after, *options, "slurm/array.sh", str(plan),
                 str(first)]
        jobs.append(sbatch(words, dry_run) or f"<{len(jobs) + 1}>")
    already = f", {len(missing) - len(wanted)} are in the queue already" if len(wanted) < len(missing) else ""
    print(f"{'would submit' if dry_run else 'submitted'} {len(wanted)} cells in {len(jobs)} array jobs"
          + ("" if dry_run or not jobs else f": {' '.join(jobs)}") + already, file=sys.stderr)
    return jobs


def in_queue() -> set[tuple[str, ...]]:
    """The commands of all cells whose jobs wait, run or end: squeue tells of each job its script's arguments."""
    plans, found = {}, set()
    for number, words in (queue() or {}).items():
        task, said = number.partition("_")[2], re.search(r"slurm/array\.sh (.+) (\d+)$", words)
        if said and task.isdigit() and Path(said[1]).exists():
            plans[said[1]] = plans.get(said[1]) or read(said[1])
            found.add(tuple(plans[said[1]][int(said[2]) + int(task)]["command"]))
    return found


def here(command: list[str]) -> list[str]:
    """The command with this Python where it says no more than `python`."""
    return [sys.executable if command[0] in ("python", "python3") else command[0], *command[1:]]


def chunks(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, last) index of consecutive parts of range(count), each of at most `size`."""
    return ((first, min(first + size, count) - 1) for first in range(0, count, size))


def largest_array() -> int:
    """How many tasks one array may have here; Slurm's default where no Slurm answers."""
    try:
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return LARGEST_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1])) if found else LARGEST_ARRAY


def sbatch(words: Sequence[str], dry_run: bool) -> str:
    """Runs `slurm/submit.sh`, which adds the site's options: the job's number, or nothing for a dry run."""
    command = [str(ROOT / "slurm" / "submit.sh"), *(["--dry-run"] if dry_run else []), *words]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if dry_run:
        print(said)
        return ""
    return said.partition(";")[0]       # with several clusters: number;cluster


def read(plan: str) -> list[Cell]:
    """The cells of a plan file, or of standard input for `-`; UserError when it is none."""
    try:
        cells = json.loads(sys.stdin.read() if plan == "-" else Path(plan).read_text())
        if all(isinstance(cell["command"], list) and cell["command"] for cell in cells):
            return cells
    except FileNotFoundError as error:
        raise UserError(f"the plan {plan} does not exist: `python -m experiments plan NAME --json` prints one") from error
    except (json.JSONDecodeError, TypeError, KeyError):
        pass
    raise UserError(f"{plan} is no plan: give a JSON list of cells, each with its `command`, a list of words")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.running.slurm", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", metavar="PLAN.json", help="the cells, or - for standard input")
    parser.add_argument("--cap", type=int, metavar="K", help="at most K cells run at once")
    parser.add_argument("--name", help="the jobs' name; the plan's file name without it")
    parser.add_argument("--logs", type=Path, default=LOGS, help="where what was submitted and its output go (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    asked, options = parser.parse_known_args(arguments)
    with one_sentence():
        cells = read(asked.plan)
        name = asked.name or ("diffprune" if asked.plan == "-" else Path(asked.plan).stem)
        try:
            submit(cells, name, asked.cap, options, asked.dry_run, asked.logs)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


if __name__ == "__main__":
    main()
