#!/usr/bin/env bash
# A training on several machines of a Slurm cluster, one process for each GPU. Build once, with the MPI that the cluster has:
#
#   cargo build --release --features mpi,cuda
#   sbatch configs/slurm.sh configs/finetune-full.toml --set optimiser.accumulation=8
#
# optimiser.accumulation counts the batches of a step, and must be a multiple of the processes (here 8): each takes its share of
# them, so a step is the same on any number of processes. The folders of the run, the data and the embedding cache must be seen by
# all machines. A job that reaches its time limit saves and ends; the same line with --resume RUN continues it, on more or fewer
# machines.
#SBATCH --job-name=sam-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# Two minutes before the limit, to every process: the step is finished and saved.
#SBATCH --signal=TERM@120
#SBATCH --output=sam-train-%j.log
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch $0 CONFIG.toml [--set KEY=VALUE ..], or sbatch $0 --resume RUN" >&2; exit 2; }
case "$1" in
  --*) arguments=("$@") ;;
  *) arguments=(--config "$@") ;;
esac
# A lost process ends the others within the minute that they may need to save.
exec srun --kill-on-bad-exit=1 --wait=60 target/release/sam-train "${arguments[@]}" --plain --set run.device=cuda --set "run.threads=$SLURM_CPUS_PER_TASK"
