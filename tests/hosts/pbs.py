"""The commands of PBS as a front end over the tests' own Slurm: qsub, qdel, qstat of Debian's slurm-wlm-torque.

The packages are unpacked into a folder, because they cannot be installed beside Grid Engine's (both own /usr/bin/qsub).
It proves submission, directives, the environment of jobs and their end. It lacks what real PBS has: a node file, which
``generate_pbs_nodefile`` makes, and ``pbs_tmrsh``, for which ``srun`` stands here.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hosts import slurm

PACKAGES = ("slurm-wlm-torque", "libslurmdb-perl")
_PERL, _PLUGIN = "usr/lib/*/perl5/*/Slurm.pm", "usr/lib/*/slurm-wlm/spank_pbs.so"
_SLURMS = ("sbatch", "scancel", "squeue", "scontrol", "salloc", "srun", "sinfo")  # looked for beside qsub
_TMRSH = '#!/bin/sh\nhost=$1\nshift\nexec srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" "$@"\n'


def missing() -> list[str]:
    """Return what is not installed here."""
    lacking = slurm.missing() + [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    return lacking + [name for name in (_PERL, _PLUGIN) if not any(Path("/").glob(name))]


def unpack(folder: Path) -> Path:
    """Fetch the packages, and return the folder of their commands."""
    folder.mkdir()
    subprocess.run(["apt-get", "-qq", "download", *PACKAGES], cwd=folder, check=True, capture_output=True, timeout=120)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, timeout=60)
    commands = folder / "usr" / "bin"
    for name in _SLURMS:
        (commands / name).symlink_to(str(shutil.which(name)))
    (commands / "pbs_tmrsh").write_text(_TMRSH)
    (commands / "pbs_tmrsh").chmod(0o755)
    return commands


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[slurm.Slurm, Path]]:
    """Run a Slurm whose jobs have PBS's variables for the length of a ``with`` block; yield it and its commands."""
    commands = unpack(folder / "front")
    below = slurm.Slurm(folder / "slurm", nodes=3)
    plugin = next(Path("/").glob(_PLUGIN))
    (below.folder / "plugstack.conf").write_text(f"required {plugin}\n")
    try:
        below.start()
        yield below, commands
    finally:
        below.stop()
