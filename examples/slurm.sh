#!/bin/bash
# One evaluation over many GPUs: sbatch --nodes 16 examples/slurm.sh RUN evaluate's own options …
#SBATCH --job-name=cannonade
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300

# RUN lies on a file system that all nodes see and that shares locks (Lustre with -o flock, NFS 4). Each process takes the next
# batch that nobody has. There is no rendezvous: a node that fails, or comes later, concerns no other, and the batches of one that
# was lost are taken over. The same command resumes.
run=$1
shift
# Five minutes before the end TERM asks every process to finish its batch. torchrun waits 30 seconds for that; a batch that takes
# longer is done again when the command runs again, and nothing finished is lost.
trap 'kill -TERM $(jobs -p); wait' TERM
srun --kill-on-bad-exit=0 --wait=0 \
    torchrun --standalone --nproc-per-node 8 -m cannonade.cli evaluate "$@" --out "$run" &
wait
