"""The test command: system packages where they can be installed, then linters, types and every test.

    python tests/run.py [arguments for pytest]

Without arguments, tests that need no system but this process and its children run first, one process a core; then
those of clusters, browsers and batch systems, one after the other, for they share this machine.

As root on Debian or Ubuntu it installs the packages that tests of real browsers and batch systems need; elsewhere those
tests skip where the program is missing, and the summary says so. With CI=true a skipped test is a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clusterglm.clusters.settings import cores

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "chromium": "chromium",
    "unshare": "util-linux",
    "sbatch": "slurm-wlm",
    "munge": "munge",
    "shellcheck": "shellcheck",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "faketime": "faketime",
    "systemd-analyze": "systemd",
    "sge_qmaster": "gridengine-master",
    "sge_execd": "gridengine-exec",
    "qconf": "gridengine-client",
}
FILES = {"usr/share/fonts/truetype/dejavu": "fonts-dejavu-core", "usr/lib/*/perl5/*/Slurm.pm": "libslurm-perl"}
POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks it before a package starts a daemon


def install_system_packages() -> None:
    """Install what is missing, as root with apt-get; say what is missing elsewhere."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    missing += [package for pattern, package in FILES.items() if not any(Path("/").glob(pattern))]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"note: {', '.join(missing)} not installed: the tests that need them are skipped", file=sys.stderr)
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with no_daemons():
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
        ):
            subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def no_daemons() -> Iterator[None]:
    """Let no package start its daemons while it is installed: the tests start their own, in folders of their own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def selections(folder: str) -> list[list[str]]:
    """Return the arguments of every run of pytest; ``folder`` is where the parallel one may write."""
    if given := sys.argv[1:]:
        return [given]
    parallel = ["-n", str(cores()), "--dist", "loadfile", "--basetemp", folder]
    return [
        ["-m", "not full and not slow and not browser", *parallel, "--durations", "10"],
        ["-m", "not full and (slow or browser)", "--durations", "40"],
    ]


def main() -> int:
    install_system_packages()
    python = sys.executable
    # A short name: messages leave out the middle of long paths, and each process has a folder of its own below it.
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        for command in (
            ["ruff", "check", "."],
            ["ruff", "format", "--check", "."],
            ["mypy"],
            *(["pytest", *selection] for selection in selections(folder)),
        ):
            print("$ -m", " ".join(command), flush=True)
            if code := subprocess.run([python, "-m", *command], cwd=ROOT, check=False).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
