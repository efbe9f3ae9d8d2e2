"""A real OAR (2.6) of one machine with six cores in a Debian trixie tree (trixie.py). Its database is a PostgreSQL."""

from __future__ import annotations

import subprocess

from hosts import trixie

_CORES = 6
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


class OAR(trixie.System):
    """A running OAR."""

    name = "oar"
    program = "usr/bin/oarsub"
    packages = (
        "oar-server oar-server-pgsql oar-user oar-user-pgsql oar-node postgresql postgresql-client openssh-server"
        " openssh-client"
    )
    others = "condor_*"

    def begin(self) -> None:
        with (self.folder / "oar.log").open("w") as log:
            line = self.in_tree("bash", "-ec", _START, "bash", str(_CORES))
            subprocess.run(line, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120)

    def ready(self) -> bool:
        return "Alive" in self.said("oarnodes", "-s")

    def jobs(self) -> list[str]:
        """Return the lines of the jobs in the queue."""
        return [line for line in self.said("oarstat").splitlines() if line[:1].isdigit()]
