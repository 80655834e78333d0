"""What was submitted to Slurm, and what became of it: the questions, and the records that tell which job has which run."""

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from diffprune.runtime.files import read_json, read_record, write_json

LARGEST_ARRAY = 1001        # Slurm's default for MaxArraySize
ENDED = re.compile(r"\bJobState=(\S+)")
TASKS = re.compile(r"\bArrayTaskId=([\d,-]+)")


@dataclass(frozen=True)
class Submitted:
    """An array: the keys of each task's runs, its number `job` ("" while sbatch has not answered), seconds since 1970."""
    tasks: list[list[str]]
    job: str = ""
    at: float = field(default_factory=time.time)

    def write(self, file: Path) -> None:
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> "Submitted":
        content = read_json(file)
        if isinstance(content, list):       # as an earlier version wrote it
            return cls([[key] for key in content], at=file.stat().st_mtime)
        return read_record(cls, file)

    def numbered(self, job: str) -> dict[str, str]:
        """{key: how Slurm calls its task of the array `job`}; an array of one is a job."""
        several = len(self.tasks) > 1
        return {key: f"{job}_{task}" if several else job for task, keys in enumerate(self.tasks) for key in keys}


@dataclass(frozen=True)
class Job:
    """The last job that was submitted for a run: its `number` (12_3), when it was submitted, the file of its output, its
    line in the queue while it is there."""
    number: str
    at: float
    log: Path
    line: "Line | None" = None

    queued = property(lambda self: self.line is not None)
    array = property(lambda self: self.number.partition("_")[0])


def jobs(folder: Path) -> dict[str, Job]:
    """{key: its last job} of all runs that were submitted from `folder`; nothing where Slurm does not answer."""
    records = {file.stem: Submitted.read(file) for file in folder.glob("*.json")}
    if not records or (lines := queue()) is None:
        return {}
    found: dict[str, Job] = {}
    for name, record in sorted(records.items(), key=lambda item: item[1].at):
        waiting = {number: line for number, line in lines.items() if line.name == name}
        # Between sbatch's answer and its record the queue alone knows the number.
        array = record.job or next((number.partition("_")[0] for number in waiting), "")
        for key, number in (record.numbered(array) if array else {}).items():
            if number in waiting or key not in found or not found[key].queued:
                found[key] = Job(number, record.at, folder / f"{number}_0_log.out", waiting.get(number))
    return found


def queued(folder: Path) -> set[str]:
    """The keys of the runs in Slurm's queue that were submitted from `folder`."""
    return {key for key, job in jobs(folder).items() if job.queued}


class Line(NamedTuple):
    """What squeue says of a job: Slurm's state, why it waits, the time until its limit, its name."""
    state: str
    reason: str
    left: str
    name: str


def queue() -> dict[str, Line] | None:
    """{number: its line} of the user's jobs in the queue, array tasks one by one; None where Slurm does not answer."""
    answer = ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|%L|%j")
    split = [line.strip().split("|", 4) for line in (answer or "").splitlines()]
    return None if answer is None else {number: Line(*rest) for number, *rest in split}


def states(job: str) -> dict[str, str]:
    """{number: Slurm's last state of it} of the array or job, from the accounting or else from what Slurm remembers."""
    if told := ask("sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", f"--jobs={job}"):
        split = (line.partition("|") for line in told.splitlines())
        return {number: state.split()[0] for number, _, state in split if state}
    lines = (ask("scontrol", "show", "job", job, "--oneliner") or "").splitlines()
    return {number: state[1] for line in lines if (state := ENDED.search(line)) for number in numbers_in(line, job)}


def numbers_in(line: str, job: str) -> list[str]:
    """The jobs that a line of scontrol is about: `ArrayTaskId=1-3,7` stands for four tasks of the array `job`."""
    if not (tasks := TASKS.search(line)):
        return [job]
    ends = [part.partition("-") for part in tasks[1].split(",")]
    return [f"{job}_{task}" for first, _, last in ends for task in range(int(first), int(last or first) + 1)]


def cancel(numbers: Iterable[str]) -> bool:
    """Cancels jobs by their numbers; returns whether Slurm took it."""
    return ask("scancel", *numbers) is not None


def largest_array() -> int:
    """The number of tasks that an array may have here; Slurm's default where Slurm does not answer."""
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.MULTILINE)
    return max(1, int(limit[1])) if limit else LARGEST_ARRAY


def ask(*command: str) -> str | None:
    """What a Slurm command prints; None where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
