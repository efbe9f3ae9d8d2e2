"""clusterglm itself on the machines of a cluster: handed over after connecting, for it does not fit into user data.

The scheduler keeps it and gives it to every worker, to those that come later or start again too.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm.clusters.cloud.userdata import HOME

if TYPE_CHECKING:
    from distributed import Client


def hand_over(client: Client) -> None:
    """Give this very clusterglm to a cluster's scheduler and workers."""
    on_scheduler, on_workers = _plugins(_archive(), str(HOME / "code"))
    client.register_plugin(on_scheduler)
    client.register_plugin(on_workers)


def _archive() -> bytes:
    """Return the package's files, packed."""
    package = Path(__file__).parents[2]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(package.parent))
    return packed.getvalue()


def _plugins(packed: bytes, folder: str) -> tuple[Any, Any]:
    """Return a plugin for the scheduler and one for workers.

    Defined in here, because what they are must travel with them: there is no clusterglm yet where they go.
    """
    from distributed import SchedulerPlugin, WorkerPlugin

    def unpack() -> None:
        import io
        import os
        import sys
        import zipfile

        here = os.path.join(folder, str(os.getpid()))  # noqa: PTH118  each process its own: several start at once
        with zipfile.ZipFile(io.BytesIO(packed)) as file:
            file.extractall(here)
        sys.path.insert(0, here)

    class OnScheduler(SchedulerPlugin):  # type: ignore[misc]
        name = "clusterglm-code"

        async def start(self, scheduler: Any) -> None:  # noqa: ARG002
            unpack()

    class OnWorkers(WorkerPlugin):  # type: ignore[misc]
        name = "clusterglm-code"

        def setup(self, worker: Any) -> None:  # noqa: ARG002
            unpack()

    return OnScheduler(), OnWorkers()
