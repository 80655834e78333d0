# Sourced by every batch script that this project submits: the site's environment, and the way back into the queue.
# A program ends with status 75 when it was asked to stop and kept its state; its job then goes back into the queue under
# the same number, and the same command goes on.

source "${DIFFPRUNE_SITE:-$(dirname "${BASH_SOURCE[0]}")/site.sh}"

# begin: prepares the job, before its program starts.
begin() {
    prepare
    local cpus="${SLURM_CPUS_PER_TASK:-1}"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cpus}" SRUN_CPUS_PER_TASK="$cpus"
    export SUBMITIT_PREEMPT_SIGNAL=USR1     # the signal before the time limit, for submitit while the program starts
    if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
        # Several processes meet at the first node, under the address by which Slurm itself reaches it.
        local first; first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show node "$first" | grep -oP 'NodeAddr=\K\S+')}"
    fi
    echo "$SLURM_JOB_NUM_NODES nodes, $(date '+%F %T'), put back into the queue ${SLURM_RESTART_COUNT:-0} times so far"
    trap : TERM                             # the script outlives its program, which is keeping its state
    trap 'requeue_if_asked $?' EXIT
}

# requeue_if_asked STATUS: puts the job back into the queue after status 75, unless somebody cancelled it. A program that
# keeps no state dies of USR1, with status 138, and its repetition goes on from the previous stage.
requeue_if_asked() {
    [ "$1" -eq 75 ] || [ "$1" -eq 138 ] || return 0
    # One task of an array has the array's own number as SLURM_JOB_ID, which would mean all tasks.
    local job="$SLURM_JOB_ID"
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ] || return 0
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${DIFFPRUNE_RESTARTS:-100}" ]; then
        echo "stopped for good: this job was put back into the queue ${SLURM_RESTART_COUNT} times already" >&2
        return 0
    fi
    echo "back into the queue: the same command goes on"
    scontrol requeue "$job"
}
