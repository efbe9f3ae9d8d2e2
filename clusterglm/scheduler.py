"""What a scheduler says of its workers, for both wings that ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client


def known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler tells of each worker, by address; nothing where the scheduler is gone.

    ``Client.scheduler_info`` will not do: it returns what lies in the client once it has asked, and the client's own
    look, every two seconds and for no workers at all, may have put its answer there meanwhile: an empty cluster.
    """

    async def ask() -> dict[str, dict[str, Any]]:
        if client.status not in ("running", "connecting") or client.scheduler is None:
            return {}
        try:
            return dict((await client.scheduler.identity(n_workers=-1))["workers"])
        except OSError:
            return {}

    found: dict[str, dict[str, Any]] = client.sync(ask)
    return found
