#!/bin/bash
#CONDOR batch_name = clusterglm
#CONDOR universe = vanilla
#CONDOR request_cpus = 8
#CONDOR request_memory = 32768
#CONDOR periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > 7200
#CONDOR output = clusterglm-$(ClusterId).out
#CONDOR error = clusterglm-$(ClusterId).out
#CONDOR executable = /bin/bash
#CONDOR should_transfer_files = NO
#CONDOR getenv = True
#CONDOR environment = "CLUSTERGLM_JOB=$(ClusterId)"
# One fit in one job: a scheduler, the fit and a worker a core. From a shell it submits itself, with the lines above:
#   bash htcondor.sh SOLVER [options of clusterglm fit]
# The job ends with the fit's exit code. Its folder runs/htcondor-JOB stays: the run, and logs under cluster/. A fit
# that was interrupted has a checkpoint: it goes on where its job is started again, or has --resume FOLDER.
# Here stands what a shell needs before it finds clusterglm: module load python, or source .../bin/activate.
set -eu
if [ -z "${CLUSTERGLM_JOB:-${_CONDOR_JOB_AD:-}}" ] && [ $# -gt 0 ]; then
    words=; for word in "$(realpath "$0")" "$@"; do word=${word//\'/\'\'} word=${word//\"/\"\"}
        words+=" '${word//\$/\$(DOLLAR)}'"; done
    sed -n 's/^#CONDOR //p' "$0" | condor_submit -terse - -a "arguments = \"$words\"" -queue 1; exit
fi
[ $# -gt 0 ] || { echo "usage: bash htcondor.sh SOLVER [options of clusterglm fit]" >&2; exit 2; }
# After the lines above, because modules set such variables and a value that is inherited wins.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1 BLIS_NUM_THREADS=1
export MALLOC_TRIM_THRESHOLD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_ARENA_MAX=1
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=20 DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=30s
export DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT=120s DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False
run=$PWD/runs/htcondor-$CLUSTERGLM_JOB cluster=$PWD/runs/htcondor-$CLUSTERGLM_JOB/cluster
mkdir -p "$cluster"
rm -rf "$cluster/tls" "$cluster/scheduler.json" # what a job that was started again has left
keys=$(clusterglm keys "$cluster/tls"); eval "$keys" # of this job alone: nobody else is spoken to

dask scheduler --port 0 --dashboard-address 127.0.0.1:0 \
    --scheduler-file "$cluster/scheduler.json" >"$cluster/scheduler.log" 2>&1 &
scheduler=$! workers=()
finish() {
    kill ${fit:+"$fit"} "$scheduler" || true # and its workers leave too
    for worker in "${workers[@]}"; do timeout 15 tail --pid="$worker" -f /dev/null || kill "$worker" || true; done
    wait
    rm -rf "$cluster/tls" "$cluster/scheduler.json" "$cluster/worker.sh"
}
trap 'finish 2>/dev/null' EXIT
until [ -s "$cluster/scheduler.json" ]; do
    kill -0 "$scheduler" 2>/dev/null || { tail -n 1 "$cluster/scheduler.log" >&2; exit 4; }
    sleep 1
done

dask worker --scheduler-file "$cluster/scheduler.json" --no-dashboard --nworkers 8 \
    --nthreads 1 --memory-limit 3686MiB --death-timeout 300 >"$cluster/worker-0.log" 2>&1 &
workers=($!) total=8 # of their memory a tenth is left to the others
[ ! -e "$run/checkpoint.npz" ] || set -- "$@" --resume "$run"
[[ " $* " == *" --resume"* ]] || set -- --out "$run" "$@"
clusterglm fit --scheduler-file "$cluster/scheduler.json" --min-workers "$total" --timeout 10min "$@" &
fit=$!
trap 'kill "$fit" || true' TERM # the end is near: the fit writes its checkpoint
while kill -0 "$fit" && kill -0 "${workers[@]}"; do sleep 1 || true; done 2>/dev/null
if kill -0 "$fit" 2>/dev/null; then echo "no worker is left: see $cluster/worker-*.log" >&2; exit 4; fi
wait "$fit"
