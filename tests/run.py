"""The test command: system packages where they can be installed, then linters, types and every test.

    python tests/run.py [arguments for pytest]

As root on Debian or Ubuntu it installs the packages that tests of real browsers and batch systems need; elsewhere those
tests skip where the program is missing, and the summary says so. With CI=true a skipped test is a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def main() -> int:
    install_system_packages()
    python = sys.executable
    tests = [python, "-m", "pytest", *(sys.argv[1:] or ["-m", "not full", "--durations", "40"])]
    for command in (
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "ruff", "format", "--check", "."],
        [python, "-m", "mypy"],
        tests,
    ):
        print("$", " ".join(command[1:]), flush=True)
        if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
