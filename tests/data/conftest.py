"""Small tables as files, and one real cluster of processes for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def frame() -> pd.DataFrame:
    """700 rows of two floats, a whole number and a bool, with target y, weights w and offset o."""
    random = np.random.default_rng(3)
    n = 700
    return pd.DataFrame(
        {
            "a": random.standard_normal(n) * 10.0 ** random.integers(-300, 300, n),
            "b": random.integers(-9, 9, n),
            "yes": random.random(n) < 0.5,
            "c": random.random(n),
            "y": random.random(n),
            "w": random.integers(1, 5, n),
            "o": random.random(n),
        }
    )


@contextmanager
def three_workers() -> Iterator[Any]:
    """A client of three worker processes on loopback."""
    import dask.config
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": 20, "distributed.comm.timeouts.connect": "10s"}
    words = {"processes": True, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with dask.config.set(settings), LocalCluster(n_workers=3, **words) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    with three_workers() as client:
        yield client


@pytest.fixture
def mortal_client() -> Iterator[Any]:
    """For those who kill workers: a nanny may give up one that dies twice, so nobody else gets this cluster."""
    with three_workers() as client:
        yield client
