#!/usr/bin/env bash
# One fit on this machine with a scheduler and workers started by Dask's own commands, all of it ended with the script.
#
#   launch/local.sh WORKERS SOLVER [options of clusterglm fit]
#   launch/local.sh 2 admm --rows 8e6
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
workers=$1
shift
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Dask gives freed memory back above 64 kB, and a kernel takes that much with every micro-block.
export MALLOC_TRIM_THRESHOLD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_ARENA_MAX=1
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
dask scheduler --host 127.0.0.1 --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$folder/scheduler.json" \
    >"$folder/scheduler.log" 2>&1 &
dask worker --scheduler-file "$folder/scheduler.json" --host 127.0.0.1 --nworkers "$workers" --nthreads 1 --no-dashboard \
    --local-directory "$folder" >"$folder/workers.log" 2>&1 &
clusterglm fit "$@" --scheduler-file "$folder/scheduler.json"
