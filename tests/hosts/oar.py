"""A real OAR (2.6) of one machine with six cores in a Debian trixie tree, in a site of its own (hosts.py).

The tree is HTCondor's (htcondor.py). Its database is a PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hosts import hosts, htcondor

USER = htcondor.USER
_NAME = "oar"
_CORES = 6
_SECONDS = 90.0
_PACKAGES = (
    "oar-server oar-server-pgsql oar-user oar-user-pgsql oar-node postgresql postgresql-client openssh-server"
    " openssh-client procps"
)
# Without cpusets, whose hierarchy is the machine's.
_START = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/sshd /run/oar /run/postgresql; chown postgres /run/postgresql; chown oar /run/oar
touch /var/log/oar.log; chown oar /var/log/oar.log
pg_ctlcluster "$(ls /etc/postgresql)" main start
sed -i 's/^DB_BASE_PASSWD=.*/DB_BASE_PASSWD="oar"/; s/^DB_BASE_PASSWD_RO=.*/DB_BASE_PASSWD_RO="oar_ro"/
    s/^SERVER_HOSTNAME=.*/SERVER_HOSTNAME="oar"/; s/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD/#&/
    s/^SCHEDULER_JOB_SECURITY_TIME=.*/SCHEDULER_JOB_SECURITY_TIME="5"/' /etc/oar/oar.conf
oar-database --create --db-is-local
/usr/sbin/sshd -f /etc/oar/sshd_config
su oar -s /bin/bash -c 'ssh -p 6667 -o StrictHostKeyChecking=no oar true' </dev/null
oarproperty -a cpu; oarproperty -a core; oarproperty -c -a host
for core in $(seq "$1"); do oarnodesetting -a -h oar -p host=oar -p cpu=1 -p core="$core" -p cpuset="$core"; done
Almighty >/tmp/almighty 2>&1 </dev/null &
"""


def missing() -> list[str]:
    """Return what is not installed here."""
    return htcondor.missing()


def install() -> None:
    """Bring OAR into the tree where it is not there."""
    htcondor.install()
    if (htcondor.TREE / "usr" / "bin" / "oarsub").exists():
        return
    htcondor.add(_PACKAGES)


class OAR:
    """A running OAR. ``words`` is the command line that runs a command in its tree, as tester."""

    def __init__(self, folder: Path, shared: list[Path]) -> None:
        self.folder, self.shared = folder, shared
        self.hosts = hosts.Hosts(folder, [_NAME], {})
        self.tree = folder / "tree" / "root"

    def start(self) -> None:
        """Start the database and the daemons, and wait until jobs can be taken."""
        self.hosts.start()
        htcondor.place_tree(self.hosts, _NAME, self.tree, self.shared, without="condor_*")
        with (self.folder / "oar.log").open("w") as log:
            line = self.hosts.command(_NAME, "chroot", str(self.tree), "bash", "-ec", _START, "bash", str(_CORES))
            subprocess.run(line, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120)
        until = time.monotonic() + _SECONDS
        while self.said("oarnodes", "-s").count("Alive") == 0:
            assert time.monotonic() < until, f"OAR waited for in vain: see {self.folder}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything with its host."""
        self.hosts.stop()

    def words(self, *words: str, **variables: str) -> list[str]:
        given = [f"{name}={value}" for name, value in {"HOME": "/home/tester", **variables}.items()]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.hosts.command(_NAME, "chroot", str(self.tree), *user, "env", "-C", "/home/tester", *given, *words)

    def said(self, *words: str) -> str:
        """Return what a command prints, empty where it fails."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> list[str]:
        """Return the lines of the jobs in the queue."""
        return [line for line in self.said("oarstat").splitlines() if line[:1].isdigit()]


@contextlib.contextmanager
def running(folder: Path, own: Path) -> Iterator[OAR]:
    """Run an OAR for the length of a ``with`` block; tester has the folder ``own``."""
    install()
    os.chown(own, USER, USER)
    here = Path(__file__).resolve().parents[2]
    oar = OAR(folder, list(dict.fromkeys([own, here, Path(sys.prefix), Path(sys.base_prefix)])))
    try:
        oar.start()
        yield oar
    finally:
        oar.stop()
