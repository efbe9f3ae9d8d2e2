"""A spot machine that is about to be taken back: its workers hand over what they hold and go.

The cloud says so at the address of its instance metadata, and there alone, Amazon two minutes before and Google half a
minute; every worker asks it again and again.
"""

from __future__ import annotations

from typing import Any

_METADATA = "http://169.254.169.254"
_LOOK_SECONDS = 2.0


def watch(cloud: str) -> Any:
    """Return a plugin for workers on ``ec2`` or ``gcp`` that retires them when their machine is to be taken back.

    Defined in here, because what it is must travel with it: there may be no clusterglm yet where it goes.
    """
    import asyncio
    import urllib.request

    from distributed import WorkerPlugin

    metadata, seconds = _METADATA, _LOOK_SECONDS

    def noticed() -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask(path: str, header: str, value: str, method: str = "GET") -> str:
            request = urllib.request.Request(f"{metadata}/{path}", method=method, headers={header: value})  # noqa: S310
            with opener.open(request, timeout=2) as answer:
                return str(answer.read().decode())

        try:
            if cloud == "gcp":
                return ask("computeMetadata/v1/instance/preempted", "Metadata-Flavor", "Google") == "TRUE"
            of_amazon = "X-aws-ec2-metadata-token"
            token = ask("latest/api/token", f"{of_amazon}-ttl-seconds", "60", "PUT")
            ask("latest/meta-data/spot/instance-action", of_amazon, token)
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
