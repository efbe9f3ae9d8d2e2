"""``clusterglm keys``: keys for Dask's own commands, which then speak to nobody else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

SECURITY = """
from distributed.security import Security
found = Security()
print(found.require_encryption, found.tls_ca_file, found.tls_worker_key)
"""


def test_what_it_prints_is_what_dask_then_uses(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    printed = cli("keys", folder)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    line = 'eval "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["sh", "-c", line, "sh", printed.stdout, sys.executable, SECURITY],
        env={**os.environ, "DASK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"True {folder}/ca.pem {folder}/key.pem\n"


def test_a_folder_that_cannot_be_made_is_an_error(cli: Any, tmp_path: Path) -> None:
    done = cli("keys", tmp_path / "no" / "where")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1)
