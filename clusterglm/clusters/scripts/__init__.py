"""One batch job for one fit: the scheduler, the workers and the fit in one allocation, as scripts that people can read.

A file and a template (``*.j2``) a batch system. ``launch/`` holds what each prints with no option given.
"""

from clusterglm.clusters.scripts.htcondor import HTCondor
from clusterglm.clusters.scripts.lsf import LSF
from clusterglm.clusters.scripts.oar import OAR
from clusterglm.clusters.scripts.pbs import PBS, Moab
from clusterglm.clusters.scripts.sge import SGE
from clusterglm.clusters.scripts.slurm import Slurm

SCRIPTS = {script.target: script for script in (Slurm, PBS, SGE, LSF, OAR, Moab, HTCondor)}
