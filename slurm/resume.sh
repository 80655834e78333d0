# Sourced by the batch scripts. A program ends with status 75 when it was asked to stop and kept its state: its job then
# goes back into the queue, under the same number, and the same command goes on.

source "${DIFFPRUNE_SITE:-$(dirname "${BASH_SOURCE[0]}")/site.sh}"

# resumable COMMAND…: runs it, passes on what Slurm says to the job (USR1: the time limit is near; TERM: the node is needed).
resumable() {
    local program="" asked="" status
    trap 'asked=yes; [ -z "$program" ] || kill -USR1 "$program"' USR1
    trap '[ -z "$program" ] || kill -TERM "$program"' TERM
    "$@" & program=$!
    [ -z "$asked" ] || kill -USR1 "$program"
    while kill -0 "$program" 2> /dev/null; do wait "$program"; done     # a trap interrupts `wait`
    wait "$program"; status=$?
    # A stage that keeps no state of its own dies of the signal, and its repetition goes on from the stage before.
    if [ -n "$asked" ] && [ "$status" -gt 128 ]; then status=75; fi
    requeue_if_asked "$status"
    return "$status"
}

# requeue_if_asked STATUS: puts the job back into the queue after status 75, unless somebody cancelled it.
requeue_if_asked() {
    [ "$1" -eq 75 ] || return 0
    # Of an array's tasks one has the array's own number as SLURM_JOB_ID, which would speak of all of them.
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
