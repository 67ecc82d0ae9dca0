#!/usr/bin/env bash
# The job of one run on a Slurm cluster: slurm_job.sh COMMAND... It is what experiments/slurm.py hands to sbatch.
#
# Slurm sends USR1 shortly before the time limit: the run stops and the job goes back into the queue, where it resumes,
# unless it saved nothing new in its time: it would never end.
# On preemption, and with scontrol requeue, Slurm ends the job and requeues it by itself.
again=
trap 'again=1; kill -TERM "$child"' USR1
trap 'kill -TERM "$child"' TERM
export MTM_RDZV=$(hostname):$((20000 + SLURM_JOB_ID % 10000)) # its machines meet at the first one, which this is
export MASTER_PORT=$((30000 + SLURM_JOB_ID % 10000)) # several jobs may share a machine
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun itself would take one
"$@" &
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2> /dev/null; do # a signal ends wait, not the run
    wait "$child"
    code=$?
done
if [ "$again" ] && [ "$code" = 130 ]; then # 130: told to stop, and has saved something
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
