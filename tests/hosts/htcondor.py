"""A real HTCondor of one machine in a Debian trixie tree (trixie.py)."""

from __future__ import annotations

from hosts import trixie

_CONFIGURATION = """
CONDOR_HOST = condor
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute
use SECURITY: HOST_BASED
ALLOW_WRITE = *
ALLOW_READ = *
ALLOW_ADMINISTRATOR = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_OWNER = *
SEC_DEFAULT_AUTHENTICATION = OPTIONAL
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
NUM_CPUS = 8
MEMORY = 8000
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = TRUE
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 2
UPDATE_INTERVAL = 3
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
UID_DOMAIN = local
FILESYSTEM_DOMAIN = local
TRUST_UID_DOMAIN = TRUE
DISCARD_SESSION_KEYRING_ON_STARTUP = False
BASE_CGROUP =
MOUNT_UNDER_SCRATCH =
DedicatedScheduler = "DedicatedScheduler@condor"
STARTD_ATTRS = $(STARTD_ATTRS) DedicatedScheduler
"""


class HTCondor(trixie.System):
    """A running HTCondor."""

    name = "condor"
    program = "usr/bin/condor_submit"
    packages = "htcondor"
    others = "oar*"

    def begin(self) -> None:
        folders = "/run/condor /run/lock/condor /var/lock/condor /var/log/condor"
        written = 'printf %s "$1" >/etc/condor/config.d/99-tests.conf'
        line = f"{written}; mkdir -p {folders}; chown condor: {folders}; exec condor_master"
        self.hosts.run(self.name, "chroot", str(self.tree), "sh", "-ec", line, "sh", _CONFIGURATION)

    def ready(self) -> bool:
        return bool(self.said("condor_status", "-af", "Name"))

    def jobs(self) -> list[str]:
        """Return the jobs in the queue: ``CLUSTER PROC STATUS``."""
        return self.said("condor_q", "-allusers", "-af", "ClusterId", "ProcId", "JobStatus").splitlines()
