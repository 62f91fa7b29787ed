#!/usr/bin/env bash
# A run on several nodes, one process a node with all of its GPUs, continued until it is finished:
#
#     sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh bdgf run --config demo --workdir runs/demo
#
# --workdir lies on a file system that all nodes share. Two minutes before the time is up SLURM sends SIGTERM; every
# process saves and leaves with status 0, and the job queues again. So it does where the job is preempted.
#SBATCH --job-name=bdgf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

stopped=$(mktemp)
trap 'rm -f "$stopped"' EXIT
srun --kill-on-bad-exit=1 "$@" | tee "$stopped"
if grep -q "was asked to stop (SIGTERM)" "$stopped"; then
    scontrol requeue "$SLURM_JOB_ID"
fi
