"""What a scheduler says of its workers."""

from __future__ import annotations

import ast
from pathlib import Path

import dask
from distributed import Client

import clusterglm
from clusterglm.scheduler import known_workers


def test_no_worker_is_forgotten_while_the_client_looks_for_itself(shared_client: Client) -> None:
    """It does every two seconds; here all the time."""
    address, often = shared_client.scheduler.address, {"distributed.client.scheduler-info-interval": "1ms"}
    with dask.config.set(often), Client(address, set_as_default=False) as client:
        assert {len(known_workers(client)) for _ in range(1000)} == {2}
        assert {worker["nthreads"] for worker in known_workers(client).values()} == {1}


def test_nobody_asks_in_another_way() -> None:
    for path in Path(clusterglm.__file__).parent.rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "scheduler_info" not in names, path
