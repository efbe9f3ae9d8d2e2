"""A cluster's folder on the shared file system: keys, scripts, logs, the scheduler's address, and the number wanted."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterglm.clusters import tls
from clusterglm.clusters.connect import read_scheduler_file
from clusterglm.clusters.files import write_whole
from clusterglm.clusters.registry import now, private_folder
from clusterglm.errors import ClusterError

SCHEDULER_FILE, PLAN_FILE = "scheduler.json", "plan.json"


def default_parent() -> Path:
    """Return the folder in which clusters get theirs unless told otherwise; nothing is touched."""
    import platformdirs

    return Path(platformdirs.user_data_dir("clusterglm")) / "clusters"


def new_uid() -> str:
    """Return eight hexadecimal digits: no two launches share a folder, and no scheduler file is ever stale."""
    return secrets.token_hex(4)


@dataclass(frozen=True)
class Folder:
    """The folder ``PARENT/NAME-UID``, its owner's alone."""

    path: Path

    def make(self, files: dict[str, str], plan: dict[str, Any]) -> None:
        """Make the folder with keys, these files, and ``plan.json``.

        Raises
        ------
        ClusterError
            It cannot be written, or is not its owner's alone.
        """
        try:
            self.path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ClusterError(
                "--folder", self.path.parent, f"{(error.strerror or '').lower()}: name another"
            ) from error
        private_folder(self.path)
        tls.make(self.path / "tls")
        private_folder(self.path / "logs")
        for name, text in files.items():
            self._write(name, text)
        self._write(PLAN_FILE, json.dumps(plan | {"created": now()}, indent=1))

    def plan(self) -> dict[str, Any]:
        """Return what ``make`` and ``want`` have noted, empty where the folder was removed."""
        try:
            content = json.loads((self.path / PLAN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def want(self, workers: int) -> None:
        """Note how many worker jobs the cluster shall have."""
        if plan := self.plan():
            self._write(PLAN_FILE, json.dumps(plan | {"workers": workers}, indent=1))

    def addresses(self) -> dict[str, Any]:
        """Return the scheduler's address and the way to its dashboard, empty before it has written them."""
        path = self.path / SCHEDULER_FILE
        try:
            address = read_scheduler_file(path, timeout=1.0) if path.stat().st_size else ""
            port = json.loads(path.read_text(encoding="utf-8"))["services"].get("dashboard") if address else None
        except (OSError, ClusterError, ValueError, KeyError, AttributeError):
            return {}
        if not address:
            return {}
        host = address.split("://")[-1].rsplit(":", 1)[0]
        way = f"http://127.0.0.1:{port}/status after: ssh -N -L {port}:127.0.0.1:{port} {host}" if port else ""
        return {"address": address, "dashboard": way}

    def logs(self) -> Iterator[tuple[str, Path]]:
        """Yield (job, file) of each log, the scheduler's first."""
        found = (self.path / "logs").glob("*.log")
        for path in sorted(found, key=lambda path: (not path.stem.startswith("scheduler"), len(path.stem), path.stem)):
            yield path.stem, path

    def last_words(self, member: str) -> str:
        """Return the last line of a job's log, empty where there is none."""
        try:
            lines = (self.path / "logs" / f"{member}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""

    def remove(self, name: str, uid: str) -> None:
        """Remove the folder of this cluster, and none that merely stands in some job's comment."""
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
            if ours and self.path.name == f"{name}-{uid}" and (self.path / "tls").is_dir():
                shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        try:
            write_whole(self.path / name, text)
        except OSError as error:
            raise ClusterError("--folder", self.path, f"{(error.strerror or '').lower()}: name another") from error
