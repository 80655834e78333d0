"""`launcher=slurm`: the jobs of a multirun become Slurm arrays; the command waits for them, or not (`launcher.wait`).

Hydra looks for launchers in the package `hydra_plugins` only.
"""

import shlex
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from diffprune.config.compose import register
from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import Submission, queue, site_options

if TYPE_CHECKING or find_spec("submitit"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
else:       # Hydra imports its plugins at every start, also where the extra `slurm` is not installed
    SlurmLauncher = Launcher

POLL, ASK_SLURM = 1.0, 10   # seconds between looks for results; looks between questions to Slurm
GRACE = 60.0                # seconds that a result may take to cross a network disk after its job has left the queue
# sbatch's options that Hydra's launcher configuration calls by another name.
HYDRA_NAMES = {"time": "timeout_min", "mem": "mem_gb", "ntasks_per_node": "tasks_per_node", "job_name": "name"}


class SlurmSweep(SlurmLauncher):
    """Hydra's submitit launcher, with this project's way to submit and to wait."""
    params: dict[str, Any]

    def __call__(self, sweep_overrides: list[str], job_dir_key: str, job_num: int, job_id: str,
                 singleton_state: dict[type, Singleton]) -> JobReturn:
        """Runs one job, in a process that does not know the configuration's schema and resolvers yet."""
        register()
        return super().__call__(sweep_overrides, job_dir_key, job_num, job_id, singleton_state)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits a job for each list of overrides; returns their results, which are empty unless they are waited for."""
        assert self.config is not None      # Hydra has called `setup`
        options = self.config.launcher
        arguments = [(list(words), "hydra.sweep.dir", number, str(number), Singleton.get_state())
                     for number, words in enumerate(job_overrides, initial_job_idx)]
        jobs = self.submission().submit(self, arguments, dry_run=options.dry_run)
        if options.dry_run:
            print(*(f"job {number}: {shlex.join(words)}" for number, words in enumerate(job_overrides)), sep="\n")
        elif options.wait:
            return results(jobs)
        return [JobReturn(words, status=JobStatus.COMPLETED) for words in job_overrides]

    def submission(self) -> Submission:
        """`hydra.launcher.…` on the command line goes before the site's options, these before `conf/launcher/slurm.yaml`."""
        assert self.config is not None
        given = {word.lstrip("+").partition("=")[0].removeprefix("hydra.launcher.")
                 for word in self.config.hydra.overrides.hydra}
        site = {name: value for name, value in site_options().items() if HYDRA_NAMES.get(name, name) not in given}
        return Submission(self.params, site | self.params["additional_parameters"])


def results(jobs: Sequence[Any]) -> list[JobReturn]:
    """Waits for submitit's jobs; returns their results in order. A job that leaves the queue without a result has failed."""
    done: dict[str, JobReturn] = {}
    missing: dict[str, float] = {}      # since when a job without a result has not been in the queue
    for look in count():
        if look % ASK_SLURM == 0 and (queued := queue()) is not None:
            missing = {job.job_id: missing.get(job.job_id, time.monotonic()) for job in jobs if job.job_id not in queued}
        for job in (job for job in jobs if job.job_id not in done):
            if job.paths.result_pickle.exists():
                done[job.job_id] = result(job)
            elif time.monotonic() - missing.get(job.job_id, inf) > GRACE:
                done[job.job_id] = JobReturn(status=JobStatus.FAILED, _return_value=UserError(
                    f"job {job.job_id} ended without a result (cancelled, killed, out of memory?): "
                    f"see {job.paths.folder}, repeat the command"))
        if len(done) == len(jobs):
            break
        time.sleep(POLL)
    return [done[job.job_id] for job in jobs]


def result(job: Any) -> JobReturn:
    """What the job's rank 0 returned."""
    try:
        return job.task(0).result()
    except Exception as error:  # whatever the job raised: Hydra raises it after the other jobs
        return JobReturn(status=JobStatus.FAILED, _return_value=error)
