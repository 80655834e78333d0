#!/bin/bash
# One run whose fine-tuning is shared by several nodes, one process per task (that is, per GPU):
#   slurm/submit.sh --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 slurm/finetune.sh experiment=lsun_church_diff_pruning
#SBATCH --job-name=finetune
#SBATCH --output=runs/.slurm/%x-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

source slurm/resume.sh
prepare
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
# The processes meet at the first node, under the address by which Slurm itself reaches it.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show node "$first" | grep -oP 'NodeAddr=\K\S+')}"
echo "$SLURM_JOB_NUM_NODES nodes, $(date '+%F %T'), put back into the queue ${SLURM_RESTART_COUNT:-0} times so far"
resumable srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python -m diffprune "$@"
