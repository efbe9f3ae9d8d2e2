"""The places where a cluster can be started: one small file each, one line here."""

from __future__ import annotations

from typing import Any

from clusterglm.clusters.targets.ansible import Ansible
from clusterglm.clusters.targets.azure import Azure
from clusterglm.clusters.targets.digitalocean import DigitalOcean
from clusterglm.clusters.targets.ec2 import Ec2
from clusterglm.clusters.targets.gcp import Gcp
from clusterglm.clusters.targets.hetzner import Hetzner
from clusterglm.clusters.targets.htcondor import HTCondor
from clusterglm.clusters.targets.local import Local
from clusterglm.clusters.targets.lsf import LSF
from clusterglm.clusters.targets.moab import Moab
from clusterglm.clusters.targets.nebius import Nebius
from clusterglm.clusters.targets.oar import OAR
from clusterglm.clusters.targets.openstack import OpenStack
from clusterglm.clusters.targets.pbs import PBS
from clusterglm.clusters.targets.sge import SGE
from clusterglm.clusters.targets.slurm import Slurm
from clusterglm.clusters.targets.ssh import Ssh

_BATCH = (Slurm, PBS, SGE, HTCondor, LSF, OAR, Moab)
_CLOUDS = (Ec2, DigitalOcean, Gcp, Hetzner, Azure, OpenStack, Nebius)
_ALL: tuple[type[Any], ...] = (Local, Ssh, Ansible, *_BATCH, *_CLOUDS)
TARGETS: dict[str, type[Any]] = {launcher.target: launcher for launcher in _ALL}
