#!/bin/bash
# One cell of a plan per array task. `python -m experiments.running.slurm PLAN.json` submits it; by hand, from the repository's root:
#   sbatch --array=0-99%8 slurm/array.sh PLAN.json [FIRST]        task I runs cell FIRST + I
#SBATCH --job-name=diffprune
#SBATCH --cpus-per-task=4
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

source slurm/resume.sh
prepare
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
cell=$((${2:-0} + SLURM_ARRAY_TASK_ID))
echo "cell $cell of $1 on $SLURMD_NODENAME, $(date '+%F %T'), put back into the queue ${SLURM_RESTART_COUNT:-0} times so far"
# A step of its own: that is what Slurm tells first that the job has to make room, not the script.
resumable srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" python3 slurm/cell.py "$1" "$cell"
