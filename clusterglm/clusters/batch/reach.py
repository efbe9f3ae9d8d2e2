"""``python -m clusterglm.clusters.batch.reach SECONDS``: what a worker's job does before it starts its worker.

It waits for the scheduler file in its folder, and then for the scheduler's port. Where either is in vain it says so
and fails, so that tasks which come after their scheduler has ended do not wait for it one after another. Its exit code
tells a scheduler that has not come yet (NOT_YET) from all others (1).
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

from clusterglm.clusters.batch.folder import SCHEDULER_FILE
from clusterglm.clusters.connect import read_scheduler_file
from clusterglm.errors import ClusterglmError

NOT_YET = 75  # of sysexits.h: a failure for now
_REACHED = "reached"  # left in the folder for those that come later
_PAUSE = 0.5  # many workers look at one shared file system
_REFUSED_SECONDS, _SILENT_SECONDS = 5.0, 60.0


def wait_for_scheduler(path: Path, seconds: float) -> tuple[int, str]:
    """Return 0 and "" when the scheduler of this file takes connections, else the exit code and why it is given up.

    A port that refuses belongs to a scheduler that has ended: its file is written when it listens. A silent one may
    be a network that is late.
    """
    until = time.monotonic() + seconds
    reached = path.with_name(_REACHED)
    while not (path.exists() and path.stat().st_size):
        if reached.exists():  # a scheduler that is told to end takes its file with it
            return 1, "the scheduler has ended"
        if time.monotonic() > until:
            return NOT_YET, f"no {path.name} after {seconds:.0f} s: the scheduler's job has not come"
        time.sleep(_PAUSE)
    try:
        address = read_scheduler_file(path)
    except ClusterglmError as error:
        return 1, str(error)
    host, port = address.split("://")[-1].rsplit(":", 1)
    since = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            reached.touch()
            return 0, ""
        except ConnectionRefusedError:
            limit, why = _REFUSED_SECONDS, "has ended"
        except OSError as error:
            limit, why = _SILENT_SECONDS, f"is out of reach from here: {error}"
        if time.monotonic() - since > limit:
            return 1, f"the scheduler at {address} {why}"
        time.sleep(_PAUSE)


if __name__ == "__main__":
    code, problem = wait_for_scheduler(Path(SCHEDULER_FILE), float(sys.argv[1]))
    if problem:
        print(f"clusterglm: {problem}", file=sys.stderr)
    sys.exit(code)
