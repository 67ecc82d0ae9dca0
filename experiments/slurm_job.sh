#!/usr/bin/env bash
# The job of one run on a Slurm cluster: slurm_job.sh COMMAND... experiments/slurm.py passes this script to sbatch.
#
# Slurm sends USR1 shortly before the time limit. The run then stops, and the job is requeued to resume, unless it saved
# nothing new in its time, because then it would never finish. On preemption, and with scontrol requeue, Slurm itself
# ends and requeues the job.
again=
trap 'again=1; kill -TERM "$child"' USR1
trap 'kill -TERM "$child"' TERM
export MTM_RDZV=$(hostname):$((20000 + SLURM_JOB_ID % 10000)) # the rendezvous is this machine, the first one of the job
export MASTER_PORT=$((30000 + SLURM_JOB_ID % 10000)) # several jobs may share a machine
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun would default to 1
"$@" &
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2> /dev/null; do # a signal interrupts wait, but does not end the run
    wait "$child"
    code=$?
done
if [ "$again" ] && [ "$code" = 130 ]; then # 130: stopped on request, with something saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
