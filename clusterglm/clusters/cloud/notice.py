"""A spot machine that is about to be taken back: its workers hand over what they hold and go, two minutes before.

The cloud says so at the address of its instance metadata, and there alone; every worker asks it again and again, with
a token (IMDSv2).
"""

from __future__ import annotations

from typing import Any

_METADATA = "http://169.254.169.254/latest"
_LOOK_SECONDS = 5.0


def watch() -> Any:
    """Return a plugin for workers that retires them when their machine is to be taken back.

    Defined in here, because what it is must travel with it: there may be no clusterglm yet where it goes.
    """
    import asyncio
    import urllib.request

    from distributed import WorkerPlugin

    metadata, seconds = _METADATA, _LOOK_SECONDS

    def noticed() -> bool:
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

        def request(path: str, method: str = "GET", **headers: str) -> urllib.request.Request:
            named = {f"X-aws-ec2-metadata-{name.replace('_', '-')}": value for name, value in headers.items()}
            return urllib.request.Request(f"{metadata}/{path}", method=method, headers=named)  # noqa: S310

        try:
            with ask(request("api/token", "PUT", token_ttl_seconds="60"), timeout=2) as answer:  # noqa: S106
                token = answer.read().decode()
            ask(request("meta-data/spot/instance-action", token=token), timeout=2).close()
        except OSError:  # 404: there is no notice
            return False
        return True

    class OnNotice(WorkerPlugin):  # type: ignore[misc]
        name = "clusterglm-notice"

        def setup(self, worker: Any) -> None:
            self.leaving = False
            self.task = asyncio.get_running_loop().create_task(self.wait(worker))

        async def wait(self, worker: Any) -> None:
            while not await asyncio.to_thread(noticed):
                await asyncio.sleep(seconds)
            self.leaving = True
            await worker.close_gracefully(restart=False, reason="the spot machine is taken back")

        def teardown(self, worker: Any) -> None:  # noqa: ARG002
            if not self.leaving:  # or it would cancel its own leaving
                self.task.cancel()

    return OnNotice()
