#!/bin/sh
# Checks the images of a list as an array of jobs, four at a time:
#   sbatch --export=ALL,LIST=/shared/images.txt,OUT=/shared/results docs/fleet/slurm.sh
#SBATCH --job-name=qcheck
#SBATCH --array=0-15%4
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
# A worker that ends by anything but its own end goes back to the queue, three times at most.
sh "${WORKER:-docs/fleet/worker.sh}" "$LIST" "$SLURM_ARRAY_TASK_ID" "$SLURM_ARRAY_TASK_COUNT" "$OUT" && exit 0
code=$?
if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
