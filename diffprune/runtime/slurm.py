"""Submission to Slurm through submitit, with the site's options: `slurm/site.sh`, or the file DIFFPRUNE_SITE names."""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from diffprune.runtime.errors import UserError
from diffprune.runtime.files import shipped_folder
from diffprune.runtime.slurm_queue import Submitted, largest_array
from diffprune.runtime.source import SUBMITTED, source_key

SCRIPTS = shipped_folder("slurm")
NOT_SBATCH = ("_target_", "submitit_folder", "max_num_timeout")     # parameters for submitit itself
Options = dict[str, Any]    # sbatch's long options with underscores: {"partition": "gpu", "exclusive": True}


@dataclass(frozen=True)
class Submission:
    """How jobs are submitted: submitit's `parameters` (as in `conf/launcher/slurm.yaml`), sbatch `options` on top of them.
    With a `cap` at most so many tasks run at once in all arrays together; without it `array_parallelism` in each array."""
    parameters: Mapping[str, Any]
    options: Options
    cap: int | None = None

    folder = property(lambda self: Path(self.parameters["submitit_folder"]).absolute())

    def submit(self, function: Callable, arguments: Sequence[tuple], keys: Sequence[Sequence[str]] = (),
               dry_run: bool = False, after: Iterable[str] = ()) -> list[Any]:
        """Submits a task `function(*arguments[i])` for each i; returns submitit's jobs and prints where their output is.
        They start when the jobs with the numbers `after` have ended, however they did.

        Tasks become as many arrays as MaxArraySize requires; with a cap each array starts when the previous one has ended.
        `keys[i]` names the runs of task i for `slurm_queue.jobs`. A dry run prints the batch scripts, also where there is no
        Slurm. Raises UserError where Slurm is not installed, SystemExit with sbatch's status where sbatch refuses: it has
        printed the reason.
        """
        jobs: list[Any] = []
        size = largest_array()
        for first in range(0, len(arguments), size):
            tasks, own, options = arguments[first:first + size], keys[first:first + size], dict(self.options)
            previous = ["PREVIOUS" if dry_run else array_of(jobs[-1])] if self.cap and first else []
            if before := ":".join([*after, *previous]):
                options["dependency"] = ",".join(filter(None, [options.get("dependency"), f"afterany:{before}"]))
            if own:     # a job's name leads to the keys of its tasks
                key = hashlib.sha256("\n".join(chain.from_iterable(own)).encode()).hexdigest()[:8]
                options["job_name"] = f"{options.get('job_name', self.parameters['name'])}-{key}"
            executor = self.executor(options, dry_run)
            if dry_run:
                print(script(executor, len(tasks)))
                continue
            submitted = Submitted([list(one) for one in own])
            if own:     # before and after, so that no job is in the queue whose runs are not known
                submitted.write(self.folder / f"{options['job_name']}.json")
            from submitit.core.utils import FailedJobError
            try:
                jobs += executor.map_array(function, *zip(*tasks, strict=True))
            except FailedJobError as error:     # submitit has printed what sbatch said
                raise SystemExit(getattr(error.__cause__, "returncode", 1)) from error
            array = array_of(jobs[-1])
            if own:
                replace(submitted, job=array).write(self.folder / f"{options['job_name']}.json")
            print(f"submitted {len(tasks)} jobs as {array}: their output is in {self.folder}/{array}_*", flush=True)
        return jobs

    def executor(self, options: Options, anywhere: bool = False) -> Any:
        """submitit's executor with all parameters; raises UserError where Slurm is not installed, unless it is to work
        `anywhere`, to print a batch script."""
        from submitit.slurm.slurm import SlurmExecutor  # slow to import, and Hydra imports its plugins at every start
        parameters = {name: value for name, value in self.parameters.items() if name not in NOT_SBATCH} | {
            "array_parallelism": self.cap or self.parameters["array_parallelism"],
            "setup": [f"export {SUBMITTED}={source_key()}", f"source {shlex.quote(str(SCRIPTS / 'resume.sh'))}", "begin",
                      *(self.parameters["setup"] or [])],
            "additional_parameters": {"requeue": True, "signal": f"USR1@{self.parameters['signal_delay_s']}", **options}}
        kind = type("Anywhere", (SlurmExecutor,), {"affinity": classmethod(lambda _: 1)}) if anywhere else SlurmExecutor
        try:
            executor = kind(self.folder, max_num_timeout=self.parameters["max_num_timeout"])
        except RuntimeError as error:
            raise UserError("launcher=slurm needs sbatch and srun, which are not on this machine: start it where jobs are "
                            "submitted, or leave launcher=slurm out") from error
        executor.update_parameters(**executor._convert_parameters(
            {name: value for name, value in parameters.items() if value is not None}))
        return executor


def script(slurm: Any, tasks: int) -> str:
    """The batch script of an array. submitit shows it to nobody before it submits: this looks inside its executor."""
    if tasks > 1:
        slurm.parameters["map_count"] = tasks
    return slurm._make_submission_file_text(slurm._submitit_command_str, "")


def array_of(job: Any) -> str:
    """The number of the array that submitit's `job` belongs to, or its own."""
    return job.job_id.partition("_")[0]


def key_of(folder: Path, until: str) -> str:
    """What a run, up to its stage `until`, is called in the records of what was submitted."""
    return f"{folder.absolute()} {until}"


def site_options() -> Options:
    """The sbatch options in the site file's list `sbatch_options`; raises UserError where the file fails."""
    file = Path(os.environ.get("DIFFPRUNE_SITE", SCRIPTS / "site.sh"))
    done = subprocess.run(["bash", "-c", 'source "$0" && printf "%s\\n" "${sbatch_options[@]}"', str(file)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the site file {file} fails: {done.stderr.strip() or done.stdout.strip()}")
    return sbatch_options(filter(None, done.stdout.split("\n")), f"sbatch_options of {file}")


def sbatch_options(words: Iterable[str], source: str) -> Options:
    """{"partition": "gpu", "exclusive": True} from `--partition=gpu --exclusive`; raises UserError for a short option."""
    options: Options = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise UserError(f"{word} in {source}: write options in their long form, --name=value")
        options[name.replace("-", "_")] = value if equals else True
    return options
