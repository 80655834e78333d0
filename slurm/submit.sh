#!/bin/bash
# slurm/submit.sh [--dry-run] [SBATCH OPTION…] SCRIPT [ARGUMENT…]
# Submits a batch script with the options of the site file; --dry-run prints the command instead. What sbatch says, and its
# exit status, are this command's.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source "${DIFFPRUNE_SITE:-slurm/site.sh}" || exit
dry_run=
if [ "${1:-}" = --dry-run ]; then dry_run=yes; shift; fi
command=(sbatch "${sbatch_options[@]}" "$@")
if [ -n "$dry_run" ]; then echo "${command[*]@Q}"; exit; fi
mkdir -p runs/.slurm
exec "${command[@]}"
