"""`launcher=slurm`: the jobs of a multirun become Slurm arrays; the command waits for them, or not (`launcher.wait`).

Hydra looks for launchers in the package `hydra_plugins` only.
"""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from diffprune.config.compose import register
from diffprune.config.naming import run_folder
from diffprune.config.sweep_words import varied
from diffprune.config.validation import check_options, check_paths
from diffprune.job import objective, summary
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from diffprune.runtime import slurm_queue
from diffprune.runtime.errors import JobFailed, UserError
from diffprune.runtime.interrupt import Interrupted
from diffprune.runtime.slurm import Submission, key_of, sbatch_options, site_options
from diffprune.runtime.source import check_source

if TYPE_CHECKING or find_spec("submitit"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
else:       # Hydra imports its plugins at every start, also where the extra `slurm` is not installed
    SlurmLauncher = Launcher

POLL, ASK_SLURM = 1.0, 10   # seconds between looks for results; looks between questions to Slurm
GRACE = 60.0                # seconds that a result may take to cross a network disk after its job has left the queue
# sbatch's options that Hydra's launcher configuration calls by another name.
HYDRA_NAMES = {"time": "timeout_min", "mem": "mem_gb", "ntasks_per_node": "tasks_per_node", "job_name": "name"}


@dataclass(frozen=True)
class SweepJob:
    """A job of the sweep: its number, its overrides, those in which it differs from the others, its run."""
    number: int
    words: list[str]
    own: list[str]
    run: Run
    until: str

    key = property(lambda self: key_of(self.run.folder, self.until))
    state = property(lambda self: RunStatus.of(self.run, self.until).state)


class SlurmSweep(SlurmLauncher):
    """Hydra's submitit launcher, with this project's way to submit and to wait."""
    params: dict[str, Any]

    def __call__(self, sweep_overrides: list[str], job_dir_key: str, job_num: int, job_id: str,
                 singleton_state: dict[type, Singleton]) -> JobReturn:
        """Runs one job, in a process that does not know the configuration's schema and resolvers yet. The process of a job
        that failed ends with status 1, and its result is kept."""
        register()
        try:
            check_source()
            done = super().__call__(sweep_overrides, job_dir_key, job_num, job_id, singleton_state)
        except UserError as error:
            print(f"failed: {error}", file=sys.stderr)
            done = JobReturn(sweep_overrides, status=JobStatus.FAILED,
                             _return_value=JobFailed(f"{' '.join(sweep_overrides)}: {error}"))
        if done.status == JobStatus.FAILED:
            keep(done)
            sys.exit(1)
        return done

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits a job for each list of overrides whose run is not done, running or in the queue; returns the jobs'
        results, which are empty unless they are waited for."""
        assert self.config is not None      # Hydra has called `setup`
        options, submission = self.config.launcher, self.submission()
        jobs = [self.job(number, list(words)) for number, words in enumerate(job_overrides, initial_job_idx)]
        left = [job for job in jobs if job.state not in ("done", "running")]
        in_queue = slurm_queue.queued(submission.folder)
        left = [job for job in left if job.key not in in_queue]
        if others := Counter(job.state if job.state in ("done", "running") else "in the queue" for job in jobs
                             if job not in left):
            print(f"leaves out {' and '.join(f'{number} {state}' for state, number in others.items())} of {len(jobs)} runs")
        arguments = [(job.words, "hydra.sweep.dir", job.number, str(job.number), Singleton.get_state()) for job in left]
        keys = [[job.key] for job in left]
        if options.dry_run:
            submission.submit(self, arguments, keys, dry_run=True)
            print(*(f"job {job.number}: {shlex.join(job.words)}" for job in left), sep="\n")
            arguments = []
        with told_what_goes_on(submission.folder, {job.key for job in left}):
            submitted = submission.submit(self, arguments, keys)
            ended = results(submitted) if options.wait else []
        tell_all(ended)
        if options.wait and not options.dry_run and (table := summary({" ".join(job.own): job.run for job in jobs})):
            print(f"\n{table}\n")
        done = dict(zip([job.number for job in left], ended, strict=False))
        return [done.get(job.number, left_out(job)) for job in jobs]

    def job(self, number: int, words: list[str]) -> SweepJob:
        """A job whose options were checked; raises UserError where no run can use them."""
        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, words)
        own = varied(cfg.hydra)
        try:
            check_options(cfg, words, in_sweep=True)
            check_paths(cfg, only_warn=cfg.launcher.files_on_nodes)
        except UserError as error:
            raise UserError(f"{error}; it is the run {' '.join(own)}, and nothing was submitted") from error
        return SweepJob(number, words, own, Run(run_folder(cfg, own)), cfg.until)

    def submission(self) -> Submission:
        """sbatch's options and `hydra.launcher.…` go before the site's options, these before `conf/launcher/slurm.yaml`."""
        assert self.config is not None
        given = {word.lstrip("+").partition("=")[0].removeprefix("hydra.launcher.")
                 for word in self.config.hydra.overrides.hydra}
        site = {name: value for name, value in site_options().items() if HYDRA_NAMES.get(name, name) not in given}
        own = sbatch_options(shlex.split(self.config.launcher.sbatch), "launcher.sbatch")
        return Submission(self.params, site | self.params["additional_parameters"] | own)


def left_out(job: SweepJob) -> JobReturn:
    """The result of a job that was not submitted: what its run returned, where it is done."""
    return JobReturn(job.words, status=JobStatus.COMPLETED, _return_value=objective(job.run))


def keep(done: JobReturn) -> None:
    """Writes the result of this job where submitit would, which does not for a process that ends with another status."""
    from submitit import JobEnvironment
    from submitit.core.utils import cloudpickle_dump, temporary_save_path
    with temporary_save_path(JobEnvironment().paths.result_pickle) as file:
        cloudpickle_dump(("success", done), file)


def tell_all(ended: Sequence[JobReturn]) -> None:
    """Lets the first failure tell of all, since Hydra raises the first alone."""
    failed = [one for one in ended if one.status == JobStatus.FAILED]
    if len(failed) > 1:
        failed[0]._return_value = JobFailed("\n".join(str(one._return_value) for one in failed))


@contextmanager
def told_what_goes_on(folder: Path, keys: set[str]) -> Generator[None]:
    """Who stops waiting is told which of the sweep's runs, by their keys, go on in Slurm's queue."""
    try:
        yield
    except Interrupted:
        left = [job for key, job in slurm_queue.jobs(folder).items() if key in keys and job.queued]
        if left:
            arrays = " ".join(dict.fromkeys(job.array for job in left))
            print(f"{len(left)} jobs go on without this command: scancel {arrays} ends them, the same command leaves them "
                  "out", file=sys.stderr)
        raise


def results(jobs: Sequence[Any]) -> list[JobReturn]:
    """Waits for submitit's jobs; returns their results in order. A job that leaves the queue without a result has failed."""
    done: dict[str, JobReturn] = {}
    missing: dict[str, float] = {}      # since when a job without a result has not been in the queue
    for look in count():
        if look % ASK_SLURM == 0 and (waiting := slurm_queue.queue()) is not None:
            missing = {job.job_id: missing.get(job.job_id, time.monotonic()) for job in jobs if job.job_id not in waiting}
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
