#!/bin/sh
# session.sh start|stop|restart ROLE: the command in ROLE.sh, in a session of its own behind ROLE.pid.
# It says what it has done, and says nothing where there was nothing to do.
set -eu
cd "$(dirname "$0")"
verb=$1 role=$2 cluster=$(basename "$(dirname "$PWD")")

# The process in the pid file, where it is the one that was started here: numbers are given again.
running() {
    pid=$(cat "$role.pid" 2>/dev/null) && [ -r "/proc/$pid/environ" ] &&
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "CLUSTERGLM_TAG=$cluster/$role"
}

start() {
    ! running || return 0
    rm -f "$role.pid"
    # shellcheck disable=SC2016  # for that shell to expand
    setsid sh -c 'echo $$ >"$0.pid"; exec "./$0.sh"' "$role" >>"$role.log" 2>&1 </dev/null &
    tries=0
    until running; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { echo "$role did not start: $(tail -n 1 "$role.log")" >&2; exit 1; }
        sleep 0.05
    done
    echo started
}

stop() {
    running || return 0
    kill "$pid"
    tries=0
    while running; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || kill -9 -- "-$pid" 2>/dev/null || true
        sleep 0.1
    done
    kill -9 -- "-$pid" 2>/dev/null || true # what it has started itself
    rm -f "$role.pid"
    echo stopped
}

case $verb in
start) start ;;
stop) stop ;;
restart)
    stop
    start
    ;;
*) exit 2 ;;
esac
