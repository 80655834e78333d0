"""`launcher=slurm`: the jobs of a multirun as one Slurm array, with the site's options, waited for or not.

Hydra takes launchers from a package of this name alone. Submitting, pickling and the job's side are submitit's.
"""

import shlex
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from diffprune.config.compose import register
from diffprune.runtime.errors import UserError
from diffprune.runtime.slurm import SCRIPTS, queue, sbatch_options

LOOK, ASK = 1.0, 10     # seconds between looks for results; looks between questions to Slurm
GRACE = 60.0            # seconds for a result to cross a network disk after its job has left the queue
OURS = {"time": "timeout_min", "mem": "mem_gb", "ntasks-per-node": "tasks_per_node", "job-name": "name"}

# In the batch script: the site's environment; a job whose program ends with status 75 goes back into the queue. submitit
# takes USR1, which fine-tuning knows; the script itself outlives a TERM, as its program does while it keeps its state.
SETUP = (f"source {SCRIPTS}/resume.sh", "prepare", "trap : TERM", "trap 'requeue_if_asked $?' EXIT",
         "export SUBMITIT_PREEMPT_SIGNAL=USR1")


class SlurmSweep(SlurmLauncher):
    """Submits every job, and with `launcher.wait` stays until each has come to something."""

    def __call__(self, *arguments: Any) -> JobReturn:
        """In the job: a new process, to which the configuration's schema and resolvers have to be made known."""
        register()
        return super().__call__(*arguments)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What the jobs returned; nothing yet where they are not waited for.

        Raises UserError where there is no Slurm. Where `sbatch` refuses, its words are shown and its exit status is ours.
        """
        done = [JobReturn(words, status=JobStatus.COMPLETED) for words in job_overrides]
        if self.config.launcher.dry_run:
            told = (f"job {number}: {shlex.join(words)}" for number, words in enumerate(job_overrides))
            print(self.script(len(done)), *told, sep="\n")
            return done
        jobs = self.submit(job_overrides, initial_job_idx)
        array, folder = jobs[0].job_id.partition("_")[0], jobs[0].paths.folder.parent
        print(f"submitted {len(jobs)} jobs as {array}: their output is in {folder}/{array}*", flush=True)
        if self.config.launcher.wait:
            return awaited(jobs)
        return done

    def executor(self) -> Any:
        """submitit's, with every option; raises UserError where there is no Slurm."""
        import submitit  # slow to import, and Hydra imports this module at every start
        try:
            executor = submitit.AutoExecutor(self.params["submitit_folder"], cluster="slurm",
                                             slurm_max_num_timeout=self.params["max_num_timeout"])
        except RuntimeError as error:
            raise UserError("launcher=slurm needs sbatch and srun, which are not on this machine: start it where jobs are "
                            "submitted, or leave launcher=slurm out") from error
        executor.update_parameters(**self.parameters())
        return executor

    def script(self, jobs: int) -> str:
        """What `sbatch` would be given for so many jobs; submitit shows it to nobody before it submits: we look inside."""
        slurm = self.executor()._executor
        if jobs > 1:
            slurm.parameters["map_count"] = jobs
        return slurm._make_submission_file_text(slurm._submitit_command_str, "")

    def submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        from submitit.core.utils import FailedJobError
        jobs, executor = len(job_overrides), self.executor()
        try:
            return executor.map_array(self, [list(words) for words in job_overrides], ["hydra.sweep.dir"] * jobs,
                                      range(first, first + jobs), [str(first + i) for i in range(jobs)],
                                      [Singleton.get_state()] * jobs)
        except FailedJobError as error:     # submitit has passed on what sbatch said
            raise SystemExit(error.__cause__.returncode) from error

    def parameters(self) -> dict[str, Any]:
        """For submitit: the command line's `hydra.launcher.…`, else the site's options, else `conf/launcher/slurm.yaml`."""
        given = {word.lstrip("+").partition("=")[0].removeprefix("hydra.launcher.")
                 for word in self.config.hydra.overrides.hydra}
        site = {name: value for name, value in sbatch_options().items()
                if OURS.get(name, name).replace("-", "_") not in given}
        common = set(BaseQueueConf.__dataclass_fields__)
        told = {name if name in common else f"slurm_{name}": value for name, value in self.params.items()
                if name not in ("submitit_folder", "max_num_timeout")}
        told["slurm_setup"] = [*SETUP, *(self.params["setup"] or [])]
        told["slurm_additional_parameters"] = {"requeue": True, "signal": f"USR1@{self.params['signal_delay_s']}",
                                               **site, **self.params["additional_parameters"]}
        return told


def awaited(jobs: Sequence[Any]) -> list[JobReturn]:
    """What each job came to, in their order."""
    done: dict[str, JobReturn] = {}
    left: dict[str, float] = {}     # when a job without a result was first seen to have left the queue
    for look in count():
        if look % ASK == 0 and (queued := queue()) is not None:
            left = {job.job_id: left.get(job.job_id, time.monotonic()) for job in jobs if job.job_id not in queued}
        for job in jobs:
            if job.job_id not in done and job.paths.result_pickle.exists():
                done[job.job_id] = result(job)
            elif job.job_id not in done and time.monotonic() - left.get(job.job_id, float("inf")) > GRACE:
                done[job.job_id] = failed(UserError(f"job {job.job_id} ended without a result (cancelled, killed, out of "
                                                    f"memory?): see {job.paths.folder}, repeat the command"))
        if len(done) == len(jobs):
            break
        time.sleep(LOOK)
    return [done[job.job_id] for job in jobs]


def result(job: Any) -> JobReturn:
    """What the job's first process returned."""
    try:
        return job.task(0).result()
    except Exception as error:  # whatever the job raised: Hydra raises it when the others have had their turn
        return failed(error)


def failed(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)
