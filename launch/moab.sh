#!/bin/bash
#MSUB -N clusterglm
#MSUB -l nodes=8:ppn=8,pmem=4096mb
#MSUB -l walltime=02:00:00
#MSUB -V -j oe
# One fit in one job: a scheduler and the fit on its first node, and workers on all of its nodes.
#
#   msub -v FIT="SOLVER [options of clusterglm fit]" moab.sh        its options win over those above
#   clusterglm script moab --account lab -- admm --rows 8e8 | msub
# The job ends with the fit's exit code. Its folder runs/moab-JOB stays: the run, and logs under cluster/. A fit
# that was interrupted has a checkpoint: it goes on where its job is started again, or has --resume FOLDER.
# Here stands what a shell needs before it finds clusterglm: module load python, or source .../bin/activate.
set -eu
cd "$PBS_O_WORKDIR"
read -ra words <<<"${FIT:-}" && set -- "$@" "${words[@]}" # msub hands no arguments to a script
[ $# -gt 0 ] || { echo "usage: msub -v FIT='SOLVER [options of clusterglm fit]' moab.sh" >&2; exit 2; }
# After the lines above, because modules set such variables and a value that is inherited wins.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1 BLIS_NUM_THREADS=1
export MALLOC_TRIM_THRESHOLD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_ARENA_MAX=1
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=20 DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=30s
export DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT=120s DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False
run=$PWD/runs/moab-${PBS_JOBID%%.*} cluster=$PWD/runs/moab-${PBS_JOBID%%.*}/cluster
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

[ -r "${PBS_NODEFILE:-}" ] || echo "note: no PBS_NODEFILE: all workers run on this node" >&2
nodes() { if [ -r "${PBS_NODEFILE:-}" ]; then sort "$PBS_NODEFILE" | uniq -c; else echo "${NCPUS:-8} $HOSTNAME"; fi; }
# Of a worker's memory a tenth is left to the scheduler, the fit and the nannies.
(umask 077 && export -p >"$cluster/worker.sh") # the environment, which is not handed on everywhere
echo "exec dask worker --scheduler-file ${cluster@Q}/scheduler.json --no-dashboard --nworkers \$1" \
    "--nthreads 1 --memory-limit 3686MiB --death-timeout 300" >>"$cluster/worker.sh"
on() { if [ "${1%%.*}" = "${HOSTNAME%%.*}" ]; then exec "${@:2}"; else exec pbsdsh -h "$@"; fi; }
while read -r count node; do
    on "$node" bash "$cluster/worker.sh" "$count" >"$cluster/worker-$node.log" 2>&1 </dev/null &
    workers+=($!) total=$((${total:-0} + count))
done < <(nodes)
[ ! -e "$run/checkpoint.npz" ] || set -- "$@" --resume "$run"
[[ " $* " == *" --resume"* ]] || set -- --out "$run" "$@"
clusterglm fit --scheduler-file "$cluster/scheduler.json" --min-workers "$total" --timeout 10min "$@" &
fit=$!
trap 'kill "$fit" || true' TERM # the end is near: the fit writes its checkpoint
while kill -0 "$fit" && kill -0 "${workers[@]}"; do sleep 1 || true; done 2>/dev/null
if kill -0 "$fit" 2>/dev/null; then echo "no worker is left: see $cluster/worker-*.log" >&2; exit 4; fi
wait "$fit"
